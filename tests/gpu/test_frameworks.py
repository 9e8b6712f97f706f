"""Data-parallel and tensor-parallel frameworks, and torch's schedules, on ranks that share a GPU
where there are not enough: proven and timed."""

import pytest

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.step_form import StepForm
from tests.gpu.lanes import GIVEN, RANKS_PER_GPU, Lane, LaneBench, RunLane

IMAGES = StepForm(memory_format="channels_last")
SHARED_PARTS: dict[str, Scalar] = {**GIVEN, "stages": 2, "replicas": "fsdp"}
LANES = {
    "fsdp": Lane("fsdp", "mlp", 2),
    "tp": Lane("tp", "gpt-tiny", 2),
    "1f1b": Lane("1f1b", "mlp", 2, GIVEN),
    "ddp": Lane("ddp", "resnet18", 2, form=IMAGES),
    "tp-sequence": Lane("tp", "gpt-tiny", 2, {"sequence": True}),
    "tp-fsdp": Lane("tp", "gpt-tiny", 4, {"ranks": 2}),
    "1f1b-parts": Lane("1f1b", "mlp", 4, SHARED_PARTS),
    "zbv-parts": Lane("zbv", "mlp", 4, SHARED_PARTS),
    "gpipe": Lane("gpipe", "mlp", 2, GIVEN),
    "interleaved": Lane("interleaved", "mlp", 2, GIVEN),
    "fsdp-resnet18": Lane("fsdp", "resnet18", 2, precision="bf16"),
    "tp-copies": Lane("tp", "gpt-tiny", 4, {"ranks": 2, "replicas": "copies"}),
}
LONG = pytest.mark.costs(16)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LONG if "parts" in name else ()) for name in LANES]
)
def test_a_framework_is_proven_and_timed(bench: LaneBench, name: str, run_lane: RunLane) -> None:
    lane = LANES[name]
    outcome = run_lane(lane)
    outcome.check_proof()
    record = outcome.record
    assert (record["case"]["gpus"], record["case"]["device"]) == (lane.ranks, bench.kind)
    must_match = record["environment"]["must_match"]
    if bench.machine.oversubscribed(lane.ranks) and bench.kind == "cuda":
        assert must_match["ranks_per_gpu"] == RANKS_PER_GPU
    if "parts" in name:
        assert {details["replicas_hold"] for details in record["details"]} == {"parts"}


OPTIONS = {
    "sync_batchnorm": Lane("ddp", "resnet18", 2, {"sync_batchnorm": True}, IMAGES),
    "powersgd": Lane("ddp", "resnet18", 2, {"hook": "powersgd", "powersgd_rank": 2}, IMAGES),
    "reduce_last": Lane("fsdp", "mlp", 2, {"reduce": "last"}, StepForm(accumulate=2)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_a_framework_is_proven_and_timed(
    bench: LaneBench, name: str, run_lane: RunLane
) -> None:
    """torch's SyncBatchNorm has no form for CPU ranks: a GPU is where it is proven."""
    if bench.kind == "cpu" and name == "sync_batchnorm":
        with pytest.raises(DnnbenchError, match="GPU"):
            run_lane(OPTIONS[name])
        return
    outcome = run_lane(OPTIONS[name])
    outcome.check_proof()
    correctness, details = outcome.record["correctness"], outcome.record["details"][0]
    for checked in ("gradients", "parameters"):
        deviation, tolerance = correctness["largest_deviation"], correctness["tolerance"]
        assert deviation[checked] <= tolerance[checked] < 1e-6
    if name == "sync_batchnorm":
        assert details["sync_batchnorm"]
        assert "the shards together" in correctness["about"]["reference"]
    elif name == "powersgd":
        assert details["powersgd_compression"] > 10
        assert "by PowerSGD written out" in correctness["about"]["reference"]
    else:
        assert details["reduce"] == "last"
