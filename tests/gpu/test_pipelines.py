"""Our pipelines on ranks that share a GPU, or have one each: proof, order of transfers, memory."""

from dataclasses import replace

import pytest

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.metrics import METRICS
from tests.gpu import programs
from tests.gpu.lanes import GIVEN, Lane, LaneBench, LaneOutcome, RunLane

ONE_QUEUE = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
"""All streams of a rank share a queue of the GPU: an order of transfers that can wait for ever
does."""

SKEWED: dict[str, Scalar] = {**GIVEN, "stages": "2-1-1"}
LANES = {
    "flush": Lane("pipedream-flush", "mlp", 2, {**GIVEN, "stages": "1-1"}),
    "pipedream-2-1-1": Lane("pipedream", "mlp", 4, SKEWED),
    "2bw": Lane("pipedream-2bw", "resnet18", 2, {**GIVEN, "stages": "1-1"}, launches=2),
    "validation": Lane("pipedream", "mlp", 2, {**GIVEN, "stages": "1-1"}, phase="validate"),
    "bandwidth-measured": Lane("pipedream", "mlp", 4, {"stages": "1-1-1-1"}),
    "one-queue": Lane("pipedream", "resnet18", 4, SKEWED, environment=ONE_QUEUE),
    "deep": replace(
        Lane("pipedream", "efficientnet_b0", 4, {**GIVEN, "stages": "1-1-1-1"}), timeout_s=120.0
    ),
}
COSTS = {"pipedream-2-1-1": 20, "bandwidth-measured": 20, "one-queue": 25, "deep": 60}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.costs(COSTS.get(name, 14))) for name in LANES],
)
def test_a_pipeline_is_proven_and_timed(bench: LaneBench, name: str, run_lane: RunLane) -> None:
    lane = LANES[name]
    outcome = run_lane(lane)
    outcome.check_proof()
    record = outcome.record
    assert record["plan"]["shape"] == lane.options["stages"]
    assert len(record["plan"]["ranks"]) == lane.ranks
    if len(record["launches"]) > 1:
        check_memory(outcome, "resident_peak_bytes" if bench.kind == "cpu" else "cached_peak_bytes")


def check_memory(outcome: LaneOutcome, name: str) -> None:
    """Launches need as much. The allocator needs more where a host runs further ahead of its GPU;
    it takes memory in segments, and one more or less is within the limit of every case."""
    metric = METRICS[name]
    assert metric.tolerance is not None
    values = outcome.per_launch(name)
    assert len(values) == 2
    allowed = max(metric.tolerance * min(values), metric.granularity)
    assert max(values) - min(values) <= allowed, values


@pytest.mark.only_on_a_gpu
def test_a_rank_touches_no_other_gpu(bench: LaneBench) -> None:
    """Each transfer thread once made a context on GPU 0, of hundreds of MB."""
    gpus = len(detect("auto").gpus)
    if gpus < 2:
        pytest.skip("needs a GPU beside the first: on one, every context is where it should be")
    devices = [f"cuda:{index}" for index in range(2)]
    ranks = Ranks(bench.server, devices, threads=1, timeout_s=60)
    assert ranks.run(programs.contexts_elsewhere) == [[], []]
