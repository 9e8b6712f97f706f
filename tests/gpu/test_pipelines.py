"""Pipelines whose ranks share one GPU, or have one each: proof, order of transfers, memory."""

from typing import Any

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.metrics import METRICS
from tests.gpu import programs
from tests.gpu.sessions import Session

SHAPES = {"2-1-1": "resnet18", "1-1-1-1": "efficientnet_b0"}
TWICE = [
    *(f"test_two_stages[{name}]" for name in ("pipedream", "pipedream-2bw", "pipedream-flush")),
    *(f"test_four_ranks[{shape}-{model}]" for shape, model in SHAPES.items()),
]
"""Those with two launches."""
CASES = [
    *TWICE,
    *(f"test_schedule[{framework}]" for framework in ("gpipe", "1f1b")),
    *(f"test_validation[{framework}]" for framework in ("gpipe", "pipedream")),
    "test_one_queue",
]


def per_launch(record: dict[str, Any], metric: str) -> list[float]:
    """The values of a metric, a launch each."""
    return record["metrics"][metric]["per_launch"]  # type: ignore[no-any-return] # JSON


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_is_proven_and_timed(shared_gpu: Session, case: str) -> None:
    """efficientnet_b0 on four stages once failed: the reference ran on the CPU. In `one_queue` all
    streams of a rank share a queue of the GPU: an order of transfers that can wait for ever
    does."""
    record = shared_gpu.record(case)
    correctness = record["correctness"]
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert record["metrics"]["throughput"]["value"] > 0


@pytest.mark.parametrize("case", TWICE)
def test_launches_of_a_pipeline_need_as_much_memory(shared_gpu: Session, case: str) -> None:
    """The allocator needs more where a host runs further ahead of its GPU. It takes memory in
    segments: one more or less is within the limit of every case."""
    metric = METRICS["cached_peak_bytes"]
    assert metric.tolerance is not None
    values = per_launch(shared_gpu.record(case), metric.name)
    allowed = max(metric.tolerance * min(values), metric.granularity)
    assert max(values) - min(values) <= allowed, values


@pytest.mark.parametrize("shape", SHAPES)
def test_stages_run_in_the_shape_that_was_asked_for(shared_gpu: Session, shape: str) -> None:
    record = shared_gpu.record(f"test_four_ranks[{shape}-{SHAPES[shape]}]")
    assert record["plan"]["shape"] == shape
    assert len(record["plan"]["ranks"]) == 4


def test_a_rank_touches_no_other_gpu(server: ForkServer) -> None:
    """Each transfer thread once made a context on GPU 0, of hundreds of MB."""
    gpus = len(detect("auto").gpus)
    if gpus < 2:
        pytest.skip("needs two GPUs: on one, every context is where it should be")
    devices = [f"cuda:{index}" for index in range(2)]
    ranks = Ranks(server, devices, threads=1, timeout_s=60)
    assert ranks.run(programs.contexts_elsewhere) == [[], []]
