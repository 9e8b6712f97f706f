"""Pipelines whose ranks share one GPU, or have one each: proof, order of transfers, memory."""

from typing import Any

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.metrics import METRICS
from tests.gpu import programs
from tests.gpu.sessions import Session

CASES = [
    "test_pipeline[pipedream-2-1-1-resnet18]",
    "test_pipeline[pipedream-2bw-1-1-resnet18]",
    "test_pipeline[pipedream-flush-1-1-mlp]",
]


def per_launch(record: dict[str, Any], metric: str) -> list[float]:
    """The values of a metric, a launch each."""
    return record["metrics"][metric]["per_launch"]  # type: ignore[no-any-return] # JSON


def check_proof(record: dict[str, Any]) -> None:
    """The step was proven, on every rank."""
    correctness = record["correctness"]
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert len(record["plan"]["ranks"]) == record["case"]["gpus"]
    assert record["metrics"]["throughput"]["value"] > 0


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_is_proven_and_timed(pipelines: Session, case: str) -> None:
    """In the first case all streams of a rank share a queue of the GPU: an order of transfers that
    can wait for ever does."""
    record = pipelines.record(case)
    check_proof(record)
    assert f"-{record['plan']['shape']}-" in case


@pytest.mark.parametrize("case", CASES)
def test_launches_of_a_pipeline_need_as_much_memory(pipelines: Session, case: str) -> None:
    """The allocator needs more where a host runs further ahead of its GPU. It takes memory in
    segments: one more or less is within the limit of every case."""
    metric = METRICS["cached_peak_bytes"]
    assert metric.tolerance is not None
    values = per_launch(pipelines.record(case), metric.name)
    assert len(values) == 2
    allowed = max(metric.tolerance * min(values), metric.granularity)
    assert max(values) - min(values) <= allowed, values


def test_a_deep_model_on_four_stages_is_proven(deep: Session) -> None:
    """The reference once ran on the CPU, and the rounding of many updates added up."""
    record = deep.record("test_deep")
    check_proof(record)
    assert record["plan"]["shape"] == "1-1-1-1"


def test_a_rank_touches_no_other_gpu(server: ForkServer) -> None:
    """Each transfer thread once made a context on GPU 0, of hundreds of MB."""
    gpus = len(detect("auto").gpus)
    if gpus < 2:
        pytest.skip("needs two GPUs: on one, every context is where it should be")
    devices = [f"cuda:{index}" for index in range(2)]
    ranks = Ranks(server, devices, threads=1, timeout_s=60)
    assert ranks.run(programs.contexts_elsewhere) == [[], []]
