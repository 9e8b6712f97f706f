"""Frameworks whose ranks share the model or the data, on ranks that share one GPU."""

import pytest

from tests.gpu.sessions import Session

PAIRS = [("ddp", "resnet18"), ("fsdp", "resnet18"), ("tp", "gpt-nano")]


@pytest.mark.parametrize("phase", ["train", "validate"])
@pytest.mark.parametrize(("framework", "model"), PAIRS)
def test_two_ranks_on_one_gpu_are_proven_and_timed(
    shared_gpu: Session, framework: str, model: str, phase: str
) -> None:
    record = shared_gpu.record(f"test_sharded[{framework}-{model}-{phase}]")
    case, correctness = record["case"], record["correctness"]
    assert (case["framework"], case["gpus"], case["phase"]) == (framework, 2, phase)
    assert record["environment"]["must_match"]["ranks_per_gpu"] == 4
    assert correctness["checked"]
    for checked in correctness["checked"]:
        assert correctness["largest_deviation"][checked] <= correctness["tolerance"][checked]
    assert len(record["launches"]) == 2
    assert record["metrics"]["throughput"]["value"] > 0
