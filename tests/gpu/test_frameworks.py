"""Frameworks whose ranks share the model or the data, on ranks that share one GPU."""

import pytest

from tests.gpu.sessions import Session

CASES = {
    "test_sharded[ddp-resnet18]": "train",
    "test_sharded[fsdp-resnet18]": "train",
    "test_sharded[tp-gpt-nano]": "train",
    "test_sharded_validation": "validate",
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_on_one_gpu_are_proven_and_timed(shared_gpu: Session, case: str) -> None:
    record = shared_gpu.record(case)
    assert (record["case"]["gpus"], record["case"]["phase"]) == (2, CASES[case])
    assert record["environment"]["must_match"]["ranks_per_gpu"] == 4
    correctness = record["correctness"]
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert record["metrics"]["throughput"]["value"] > 0
