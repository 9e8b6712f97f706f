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
