"""After the timed steps: a model that computes less once it has been proven is found out."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.results.records.rank_agreement import agree
from tests.patience import HANG_S
from tests.tiny_models import tiny

STEPS = 14


class Tires(nn.Module):
    """From its 13th pass on its logits are zeros that cost nothing; no proof here makes so many."""

    def __init__(self) -> None:
        super().__init__()
        self.honest, self.passes = tiny(), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, at first."""
        self.passes += 1
        if self.passes <= 12:
            logits: torch.Tensor = self.honest(images)
            return logits
        return images.new_zeros(len(images), 10, dtype=torch.float32) * sum(
            parameter.sum() for parameter in self.parameters()
        )


class OtherLocal(SingleWorker):
    """What runs a forward pass is no longer the module when the run ends, as if torch had compiled
    something else. `module` itself stays honest."""

    def run(self, steps: int) -> Iterator[Step]:
        """Steps, and then the other thing."""
        yield from super().run(steps)
        self.local = Doubled(self.module)


class Doubled(nn.Module):
    """A module that gives twice what another does."""

    def __init__(self, honest: nn.Module) -> None:
        super().__init__()
        self.honest = honest

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Twice the logits."""
        logits: torch.Tensor = 2 * self.honest(images)
        return logits


class Freezes(nn.Module):
    """From its 13th pass on its normalisation is no longer that of training."""

    def __init__(self) -> None:
        super().__init__()
        self.honest, self.passes = tiny(), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        self.passes += 1
        if self.passes > 12:
            self.honest.eval()
        logits: torch.Tensor = self.honest(images)
        return logits


class Versioned(nn.Module):
    """Loads weights of a known version only, as torchvision's MNASNet."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits

    def _load_from_state_dict(self, state: Any, prefix: str, local: Any, *others: Any) -> None:
        assert local.get("version") == 2, f"weights of version {local.get('version')}"
        super()._load_from_state_dict(state, prefix, local, *others)


def request(framework: str, gpus: int, model: str, phase: str, precision: str) -> RunRequest:
    case = Case(framework, model, gpus, phase, batch_size=4, precision=precision)
    worker = Catalog().framework(framework).worker
    return RunRequest(case, worker, Catalog().model(model), STEPS, 1, recheck=True)


def launch(server: ForkServer, target: str, asked: RunRequest) -> object:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    horovod = asked.case.framework == "horovod"
    return ranks.launch(target, asked, **({"rendezvous": horovod_rendezvous} if horovod else {}))


@pytest.mark.parametrize(
    ("framework", "gpus", "phase", "model"),
    [
        ("single", 1, "validate", "Tires"),
        ("single", 1, "train", "Tires"),
        ("ddp", 2, "train", "Tires"),
        ("horovod", 2, "train", "Tires"),
        ("single", 1, "train", "Freezes"),
    ],
)
def test_a_model_that_passes_the_proof_and_computes_less_when_timed_fails(
    server: ForkServer, framework: str, gpus: int, phase: str, model: str
) -> None:
    asked = request(framework, gpus, f"tests.rank.proof.test_recheck:{model}", phase, "fp32")
    agree(asked.case, launch(server, PROVE, asked))  # type: ignore[arg-type] # of PROVE
    launch(server, MEASURE, replace(asked, recheck=False))
    with pytest.raises(WrongResult, match="after the timed steps the model computes something"):
        launch(server, MEASURE, asked)


@pytest.mark.parametrize("phase", ["train", "validate"])
def test_what_was_timed_is_checked_and_not_the_module_beside_it(
    server: ForkServer, phase: str
) -> None:
    asked = request("single", 1, "tests.tiny_models:tiny", phase, "fp32")
    with pytest.raises(WrongResult, match="after the timed steps the model computes something"):
        launch(server, MEASURE, replace(asked, worker="tests.rank.proof.test_recheck:OtherLocal"))


def test_a_case_of_two_images_is_proven_on_more(server: ForkServer) -> None:
    """Batch normalisation over two values turned rounding around: after three steps, logits of a
    right mnasnet0_5 were 0.377 off."""
    asked = request("single", 1, "tests.tiny_models:tiny", "train", "fp32")
    small = replace(asked, case=replace(asked.case, batch_size=2))
    proven = agree(small.case, launch(server, PROVE, small))  # type: ignore[arg-type] # of PROVE
    assert proven.about["batch_size"] == 4


@pytest.mark.parametrize(
    ("framework", "gpus", "phase", "model", "precision"),
    [
        ("single", 1, "train", "resnet18", "fp32"),
        ("single", 1, "train", "tests.rank.proof.test_recheck:Versioned", "fp32"),
        ("ddp", 2, "train", "tests.tiny_models:tiny", "bf16"),
        ("horovod", 2, "train", "tests.own_workloads:Ranking", "fp32"),
        ("ddp", 2, "validate", "tests.own_workloads:Words", "fp32"),
    ],
)
def test_an_honest_model_passes(
    server: ForkServer, framework: str, gpus: int, phase: str, model: str, precision: str
) -> None:
    launch(server, MEASURE, request(framework, gpus, model, phase, precision))
