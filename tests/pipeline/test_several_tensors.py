"""Pipelines of models that take or return several tensors: float64, parameter by parameter, beside
the model itself; and what is said of those that cannot be."""

from typing import Any

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport
from tests.pipeline.test_torch_pipeline import launch as launch_torch
from tests.pipeline.test_torch_pipeline import profiles as profiles
from tests.pipeline.test_torch_pipeline import prove as prove_torch
from tests.pipeline.test_worker import TRAINED, launch, prove
from tests.pipeline.test_worker import _profiles_of_its_own as _profiles_of_its_own

__all__ = ["launch_torch", "profiles", "prove_torch"]

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
        ("Auxiliary", "pipedream", 2, "2"),
    ],
)
def test_our_pipelines_compute_what_one_process_computes(
    server: ForkServer, model: str, framework: str, gpus: int, stages: str
) -> None:
    evidence = prove(server, gpus, framework=framework, model=f"{MODELS}:{model}", stages=stages)
    assert [each for each in evidence.checked if each != "buffers"] == [
        each for each in kinds(model, TRAINED) if each != "buffers"
    ]
