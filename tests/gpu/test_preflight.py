"""The preflight's measurement on GPUs: here two ranks that share one stand for two nodes."""

from dataclasses import replace

import pytest

from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.placement import Placements
from pytest_dnnbench.controller.preflight import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import NodeSpeed


def test_a_link_is_measured_over_gloo_and_over_nccl_and_the_gpu_has_a_yardstick() -> None:
    machine = replace(detect("cuda"), ranks_per_gpu=2)
    leases = Leases(timeout_s=60, announce=print)
    placements = Placements(machine, leases, (2,), timed=False, side_by_side=False)
    with ForkServer(PRELOAD) as server:
        ranks = Ranks(server, machine.places(2), threads=1, timeout_s=60, placements=placements)
        speeds: list[NodeSpeed] = ranks.launch(MEASURE, 20.0, returns=NodeSpeed)
    links = speeds[0].links
    assert [(link.backend, link.ranks) for link in links] == [("gloo", (0, 1)), ("nccl", (0, 1))]
    assert speeds[1].links == ()
    for link in links:
        assert min(link.forth_bytes_s, link.back_bytes_s) > 1e6
        assert link.forth_bytes_s == pytest.approx(link.back_bytes_s, rel=2.0)
        assert 0 < link.latency_s < 0.01
    # Both ranks ran it on the same GPU, at the same time or not.
    assert all(1e-4 < second < 1.0 for speed in speeds for second in speed.yardstick_s)
