"""GPUs of other nodes are read by the agents there, within the timed window. NVML is injected into
real agents."""

import sys
from pathlib import Path

import pytest

from pytest_dnnbench.controller.agent_messages import Hello
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.engines import Prefix
from pytest_dnnbench.controller.gpu_samples import SAMPLE_S, GpuSample, GpuSamples
from pytest_dnnbench.controller.node_placement import NodePlacements, gpu_windows
from pytest_dnnbench.controller.placement import NodeShare, Placement
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.session.nodes import hello
from tests.cluster.test_cluster import fake
from tests.patience import HANG_S

WATTS = {"n1": 100.0, "n2": 300.0}
WINDOWS_S = (1.6, 6.4, 25.6, 102.4)
"""One after the other, until no agent has lost its core for most of it."""


def test_each_agent_reads_the_gpus_of_its_node_within_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNNBENCH_LEASE_DIR", str(tmp_path))

    def first_message() -> Hello:
        return hello((), device="cuda", timed=True, lease_timeout_s=HANG_S)

    nodes = []
    for name, watts in WATTS.items():
        words = (sys.executable, "-m", "tests.cluster.gpu_agent", f"GPU-{name}", str(watts))
        engine = Prefix(tuple(WATTS), (*words, "{command}"))
        nodes.append(RemoteNode(name, engine, first_message))
    both = Cluster(nodes)
    both.connect()
    try:
        placements = NodePlacements(both, HANG_S)
        job = Ranks(None, ["cuda:0"] * 2, threads=1, timeout_s=HANG_S, placements=placements)
        for window_s in WINDOWS_S:
            answers = job.launch("tests.cluster.programs:window_of", window_s)
            begin_s, end_s = max(begin for begin, _ in answers), min(end for _, end in answers)
            windows = gpu_windows(job.placement, (begin_s, end_s), job.clock.offsets)
            if end_s - begin_s > window_s / 2 and all(
                each.samples > 1 for each in windows.values()
            ):
                break
    finally:
        both.close()
    for name, watts in WATTS.items():
        window = windows[f"GPU-{name}"]
        assert window.power_w == watts
        # Both agents are here, so the clocks are one, and the offsets within their uncertainty.
        assert window.energy_j == pytest.approx(watts * (end_s - begin_s), rel=0.01)
        assert 2 <= window.samples <= (end_s - begin_s) / SAMPLE_S + 2
    assert job.placement.conditions.gpu_uuids == ("GPU-n1", "GPU-n2")


def test_a_window_is_moved_to_the_clock_of_each_node() -> None:
    """The second node's clock is 1000 s ahead, and its GPU draws 10 W."""

    def samples(uuid: str, ahead_s: float, watts: float) -> GpuSamples:
        read = [
            GpuSample(ahead_s + second, {"energy_j": watts * second}, {"power_w": watts})
            for second in range(20)
        ]
        return GpuSamples((uuid,), samples={uuid: read})

    shares = tuple(NodeShare(fake(name), Host("", "", 2)) for name in "ab")
    placement = Placement(("cuda:0",) * 4, 1, shares=shares)
    placement.gpu_samples = (samples("GPU-a", 0.0, 1.0), samples("GPU-b", 1000.0, 10.0))
    offsets = [ClockOffset()] * 2 + [ClockOffset(1000.0, 0.1)] * 2
    windows = gpu_windows(placement, (5.0, 9.5), offsets)
    assert windows["GPU-a"].energy_j == pytest.approx(4.5)
    assert windows["GPU-b"].energy_j == pytest.approx(45.0)
    assert windows["GPU-b"].samples == 5


def test_a_lost_node_has_no_samples_and_the_others_keep_theirs() -> None:
    shares = tuple(NodeShare(fake(name), Host("", "", 1)) for name in "ab")
    placement = Placement(("cuda:0",) * 2, 1, shares=shares)
    read = {"GPU-b": [GpuSample(1.0, {}, {"power_w": 7.0})]}
    placement.gpu_samples = (GpuSamples(()), GpuSamples(("GPU-b",), samples=read))
    windows = gpu_windows(placement, (0.0, 2.0), ())
    assert set(windows) == {"GPU-b"}
    assert windows["GPU-b"].power_w == 7.0
