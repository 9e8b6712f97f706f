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


@pytest.mark.parametrize("option", ["sync_batchnorm", "powersgd", "reduce_last"])
def test_an_option_of_a_framework_is_proven_and_timed(shared_gpu: Session, option: str) -> None:
    """torch's SyncBatchNorm has no form for CPU ranks: this is where it is proven."""
    record = shared_gpu.record(f"test_option[{option}]")
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
