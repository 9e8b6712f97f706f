"""Pipelines of models that take or return several tensors: float64, parameter by parameter, beside
the model itself; and what is said of those that cannot be."""

from functools import partial
from typing import Any

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport
from tests.pipeline import test_worker as ours
from tests.pipeline.several_tensors import LENGTH
from tests.pipeline.test_torch_pipeline import launch as launch
from tests.pipeline.test_torch_pipeline import profiles as profiles
from tests.pipeline.test_torch_pipeline import prove as prove
from tests.pipeline.test_worker import TRAINED
from tests.pipeline.test_worker import _profiles_of_its_own as _profiles_of_its_own

MODELS = "tests.pipeline.several_tensors"
VALIDATED = ["validation in float32", "validation"]


def kinds(model: str, trained: list[str]) -> list[str]:
    return [*trained, "updates"] if model == "Translation" else trained


@pytest.mark.parametrize(
    ("model", "framework", "gpus", "stages"),
    [
        ("Translation", "pipedream", 4, "2-1-1"),
        ("Translation", "pipedream-flush", 2, "2"),
        ("Diffusion", "pipedream", 2, "2"),
        ("Diffusion", "pipedream-2bw", 4, "1-2-1"),
        ("Masked", "pipedream", 4, "4"),
        ("Auxiliary", "pipedream-flush", 4, "2-1-1"),
        ("InTraining", "pipedream", 2, "2"),
        ("Remembering", "pipedream", 3, "2-1"),
    ],
)
def test_our_pipelines_compute_what_one_process_computes(
    server: ForkServer, model: str, framework: str, gpus: int, stages: str
) -> None:
    evidence = ours.prove(
        server, gpus, framework=framework, model=f"{MODELS}:{model}", stages=stages
    )
    assert [each for each in evidence.checked if each != "buffers"] == [
        each for each in kinds(model, TRAINED) if each != "buffers"
    ]


@pytest.mark.parametrize(
    ("model", "framework", "gpus", "options"),
    [
        ("Translation", "1f1b", 2, {}),
        ("Translation", "zero-bubble", 2, {}),
        ("Diffusion", "gpipe", 4, {"stages": 2}),
        ("Diffusion", "zbv", 2, {}),
        ("Masked", "interleaved", 2, {}),
        ("Masked", "mp", 2, {}),
        ("Masked", "bfs", 2, {}),
        ("Auxiliary", "bfs", 4, {"stages": 2}),
        ("Diffusion", "dualpipev", 2, {}),
        ("Auxiliary", "dualpipev", 4, {"stages": 2}),
        ("InTraining", "zero-bubble", 2, {}),
        ("Remembering", "1f1b", 4, {}),
        ("Remembering", "zbv", 2, {}),
        ("Auxiliary", "1f1b", 4, {}),
        ("Auxiliary", "zero-bubble", 2, {}),
        ("Auxiliary", "zbv", 4, {"stages": 2}),
        ("Auxiliary", "interleaved", 4, {"stages": 2, "replicas": "fsdp"}),
    ],
)
def test_torchs_schedules_compute_what_one_process_computes(
    prove: Any, model: str, framework: str, gpus: int, options: dict[str, Any]
) -> None:
    evidence = prove(framework, gpus, model=f"{MODELS}:{model}", **options)
    assert [each for each in evidence.checked if each != "buffers"] == [
        each for each in kinds(model, TRAINED) if each != "buffers"
    ]


@pytest.mark.parametrize(
    ("model", "framework"),
    [
        ("Auxiliary", "pipedream"),
        ("InTraining", "gpipe"),
        ("Diffusion", "zbv"),
        ("Remembering", "interleaved"),
    ],
)
def test_validation_is_proven(server: ForkServer, prove: Any, model: str, framework: str) -> None:
    settings: dict[str, Any] = {"model": f"{MODELS}:{model}", "phase": "validate"}
    if framework == "pipedream":
        assert ours.prove(server, 3, stages="1-2", **settings).checked == VALIDATED
    else:
        assert prove(framework, 2, **settings).checked == VALIDATED


@pytest.mark.parametrize("family", ["Pipedream", "Torch"])
@pytest.mark.parametrize(
    ("fault", "model"),
    [
        ("SwappedInputs", "Translation"),
        ("MaskOfAnother", "Masked"),
        ("AuxiliaryGradientDropped", "Auxiliary"),
    ],
)
def test_a_planted_fault_is_caught(
    server: ForkServer, prove: Any, family: str, fault: str, model: str
) -> None:
    settings: dict[str, Any] = {
        "worker": f"tests.pipeline.faulty_tensors:{fault}{family}",
        "model": f"{MODELS}:{model}",
    }
    of_ours = partial(ours.prove, server, 2, stages="2", **settings)
    proof = of_ours if family == "Pipedream" else partial(prove, "1f1b", 2, **settings)
    with pytest.raises(WrongResult, match=r"(gradients in float32|parameters) of stage 0"):
        proof()


def test_each_minibatch_counts_once_with_its_own_samples(server: ForkServer, launch: Any) -> None:
    """As the workload counts them on the first stage: elements of its first input."""
    model, tokens = f"{MODELS}:Translation", 4 * LENGTH
    first, last = ours.launch(server, MEASURE, 2, stages="2", model=model)
    assert (first.step_samples, last.step_samples) == ((0,) * 6, (tokens,) * 6)
    assert (last.sample, last.samples_per_update) == ("tok", tokens)
    reports: list[RankReport] = launch(MEASURE, "gpipe", 2, model=model)
    assert [report.step_samples for report in reports] == [(0,) * 3, (2 * tokens,) * 3]


def test_lengths_may_change_where_messages_have_any_size(server: ForkServer, prove: Any) -> None:
    model = f"{MODELS}:Ragged"
    assert ours.prove(server, 2, stages="2", model=model).checked == TRAINED
    with pytest.raises(UsageError, match=r"of a microbatch are .* have one size, so let"):
        prove("gpipe", 2, model=model)


def test_what_changes_beside_the_tensors_is_refused_in_one_line(server: ForkServer) -> None:
    message = r"the inputs of Changing: \d+ in one minibatch and \d+ in another, .* as a tensor"
    with pytest.raises(UsageError, match=message) as caught:
        ours.prove(server, 2, stages="2", model=f"{MODELS}:Changing")
    assert "\n" not in str(caught.value)
