"""Steps that are captured as CUDA graphs, on one GPU: proven, and not slower than plain ones."""

from typing import Any

import pytest

from tests.gpu.sessions import run_session

CASES = """
import pytest
from pytest_dnnbench import StepForm

GRAPH = StepForm(memory_format="channels_last", cuda_graph=True)
PLAIN = StepForm(memory_format="channels_last")

@pytest.mark.parametrize("form", [PLAIN, GRAPH], ids=["plain", "graph"])
def test_train(form, process_group, dnnbench):
    dnnbench.measure("single", "resnet18", process_group(1), phase="train", form=form)

def test_validate(process_group, dnnbench):
    dnnbench.measure("single", "resnet18", process_group(1), phase="validate", form=GRAPH)

def test_adam(process_group, dnnbench):
    form = StepForm(fused=True, cuda_graph=True)
    dnnbench.measure("single", "gpt-nano", process_group(1), phase="train", form=form)
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The records of one launch of each case, by the name of the test."""
    words = (
        "--dnn-gpu-counts 1 --dnn-image-size 28 --dnn-batch-size 32 --dnn-precision bf16"
        " --dnn-launches 1 --dnn-window 1s"
    )
    session = run_session(tmp_path_factory.mktemp("graphs"), CASES, words)
    print(session.text[-8000:])  # shown where a case has no record
    return session.records


@pytest.mark.parametrize("name", ["test_train[graph]", "test_validate", "test_adam"])
def test_replays_are_proven_in_both_types(records: dict[str, Any], name: str) -> None:
    evidence = records[name]["correctness"]
    assert "captured" in evidence["about"]
    for kind, deviation in evidence["largest_deviation"].items():
        assert deviation <= evidence["tolerance"][kind], kind


def test_a_captured_step_is_not_slower_and_needs_as_much_memory(records: dict[str, Any]) -> None:
    plain, graph = (records[f"test_train[{form}]"]["metrics"] for form in ("plain", "graph"))
    print("throughput", *(each["throughput"]["value"] for each in (plain, graph)))
    assert graph["throughput"]["value"] >= plain["throughput"]["value"]
    peaks = [each["allocated_peak_bytes"]["value"] for each in (plain, graph)]
    print("allocated", *peaks)
    assert 0.8 * peaks[0] < peaks[1] < 2 * peaks[0]


def test_the_first_losses_are_those_of_the_plain_step(records: dict[str, Any]) -> None:
    """The same weights and minibatches; later steps differ by rounding."""
    plain, graph = (
        records[f"test_train[{form}]"]["launches"][0]["loss"] for form in ("plain", "graph")
    )
    assert graph[:6] == pytest.approx(plain[:6], rel=0.05)
