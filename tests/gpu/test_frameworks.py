"""Sharded models and torch's schedules on two ranks that share one GPU."""

import pytest

from tests.gpu.sessions import Session

CASES = {
    "test_sharded[fsdp]": "train",
    "test_sharded[tp]": "train",
    "test_schedule[gpipe]": "train",
    "test_schedule[1f1b]": "train",
    "test_validation": "validate",
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_on_one_gpu_are_proven_and_timed(others: Session, case: str) -> None:
    record = others.record(case)
    assert (record["case"]["gpus"], record["case"]["phase"]) == (2, CASES[case])
    assert record["environment"]["must_match"]["ranks_per_gpu"] == 4
    correctness = record["correctness"]
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert record["metrics"]["throughput"]["value"] > 0


@pytest.mark.parametrize("framework", ["1f1b", "zbv"])
def test_replicas_of_stages_on_one_gpu_share_their_weights_out(
    others: Session, framework: str
) -> None:
    record = others.record(f"test_parts[{framework}]")
    correctness = record["correctness"]
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert {details["replicas_hold"] for details in record["details"]} == {"parts"}


@pytest.mark.parametrize("option", ["sync_batchnorm", "powersgd", "reduce_last"])
def test_an_option_of_a_framework_is_proven_and_timed(others: Session, option: str) -> None:
    """torch's SyncBatchNorm has no form for CPU ranks: this is where it is proven."""
    record = others.record(f"test_option[{option}]")
    correctness, details = record["correctness"], record["details"][0]
    for checked in ("gradients", "parameters", "buffers"):
        deviation, tolerance = correctness["largest_deviation"], correctness["tolerance"]
        assert deviation[checked] <= tolerance[checked] < 1e-6
    assert record["metrics"]["throughput"]["value"] > 0
    if option == "sync_batchnorm":
        assert details["sync_batchnorm"]
        assert "the shards together" in correctness["about"]["reference"]
    elif option == "powersgd":
        assert details["powersgd_compression"] > 10
        assert "by PowerSGD written out" in correctness["about"]["reference"]
    else:
        assert details["reduce"] == "last"
