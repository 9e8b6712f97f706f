"""Pipelines whose ranks share one GPU, or have one each: proof, order of transfers, memory."""

from typing import Any

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.metrics import METRICS
from tests.gpu import programs
from tests.gpu.sessions import Session

FRAMEWORKS = ["pipedream", "pipedream-2bw", "pipedream-flush", "gpipe", "1f1b"]
SHAPES = {"2-1-1": "resnet18", "1-1-1-1": "efficientnet_b0"}
CASES = [
    *(f"test_two_stages[{framework}]" for framework in FRAMEWORKS),
    *(f"test_validation[{framework}]" for framework in ("pipedream", "gpipe")),
    *(f"test_four_ranks[{shape}-{model}]" for shape, model in SHAPES.items()),
    "test_one_queue[1-1]",
    "test_one_queue[2-1]",
]


def per_launch(record: dict[str, Any], metric: str) -> list[float]:
    """The values of a metric, a launch each."""
    return record["metrics"][metric]["per_launch"]  # type: ignore[no-any-return] # JSON


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_is_proven_and_timed(shared_gpu: Session, case: str) -> None:
    """efficientnet_b0 on four stages once failed: the reference ran on the CPU. In `one_queue` all
    streams of a rank share a queue of the GPU: an order of transfers that can deadlock does."""
    record = shared_gpu.record(case)
    correctness = record["correctness"]
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert len(record["launches"]) == 2
    # The last stage, which counts the images, did a minibatch in every step.
    for launch in record["launches"]:
        assert all(seconds > 0 for seconds in launch["step_time_s"])


@pytest.mark.parametrize("case", CASES)
def test_launches_of_a_pipeline_need_as_much_memory(shared_gpu: Session, case: str) -> None:
    """The allocator needs more where a host runs further ahead of its GPU."""
    tolerance = METRICS["cached_peak_bytes"].tolerance
    assert tolerance is not None
    values = per_launch(shared_gpu.record(case), "cached_peak_bytes")
    assert max(values) <= min(values) * (1 + tolerance), values


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
