"""The preflight's measurement on GPUs: here two ranks that share one stand for two nodes."""

import pytest

from pytest_dnnbench.controller.preflight import MEASURE
from pytest_dnnbench.messages import NodeSpeed
from tests.gpu.lanes import Lane, LaneBench


@pytest.mark.costs(20)
def test_a_link_is_measured_and_the_device_has_a_yardstick(bench: LaneBench) -> None:
    ranks = bench.ranks(Lane("single", "mlp", 2))
    speeds: list[NodeSpeed] = ranks.launch(MEASURE, 20.0, returns=NodeSpeed)
    links = speeds[0].links
    backends = ["gloo", "nccl"] if bench.kind == "cuda" else ["gloo"]
    assert [(link.backend, link.ranks) for link in links] == [(name, (0, 1)) for name in backends]
    assert speeds[1].links == ()
    for link in links:
        assert min(link.forth_bytes_s, link.back_bytes_s) > 1e6
        if bench.kind == "cuda":
            assert link.forth_bytes_s == pytest.approx(link.back_bytes_s, rel=2.0)
            assert 0 < link.latency_s < 0.01
    # Both ranks ran it on the same device, at the same time or not.
    assert all(1e-4 < second < 10.0 for speed in speeds for second in speed.yardstick_s)
