"""Blocks that change their inputs in place, and blocks whose weights others use: which they are,
what copies make of them, and what is refused. Under fsdp and checkpointing, steps of such models
are proven."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.rank.block_trial import copy_changed_inputs, try_blocks
from pytest_dnnbench.rank.step_forms import form_module
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.step_form import StepForm
from tests.awkward_models import ChangesInputs, GoesOn
from tests.own_workloads import Words
from tests.patience import HANG_S
from tests.tiny_models import tiny

IMAGES = ImageWorkload("tests.awkward_models:ChangesInputs", 28)
CHANGES, GOES_ON = "tests.awkward_models:ChangesInputs", "tests.awkward_models:GoesOn"


def copied_in(module: nn.Module) -> list[str]:
    images = torch.randn(3, 1, 28, 28, dtype=next(module.parameters()).dtype)

    def run(each: nn.Module) -> object:
        return each(images)

    shown = try_blocks(module, IMAGES, IMAGES.blocks(module), run)
    return copy_changed_inputs(module, IMAGES, shown, run)


def shared_in(module: nn.Module, *inputs: torch.Tensor) -> frozenset[str]:
    blocks = [name for name, _ in module.named_children()]
    return try_blocks(module, IMAGES, blocks, lambda each: each(*inputs)).shared


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """Of one step with dropout, the same for each call."""
    torch.manual_seed(5)
    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    loss = cross_entropy(module(images), torch.tensor([0, 1, 2]))
    loss.backward()  # type: ignore[no-untyped-call] # torch's gap
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def test_only_blocks_whose_inputs_are_changed_get_copies() -> None:
    assert sorted(copied_in(ChangesInputs())) == ["halved", "hands_on", "head"]
    assert copied_in(tiny()) == []


@pytest.mark.parametrize(
    "form", [StepForm(), StepForm(checkpointing=True)], ids=["plain", "checkpointing"]
)
def test_gradients_are_those_of_the_plain_model(form: StepForm) -> None:
    module = ChangesInputs().double()
    plain = gradients(copy.deepcopy(module))
    copied_in(module)
    form_module(module, form, IMAGES)
    formed = gradients(module)
    assert plain.keys() == formed.keys()
    assert all(torch.equal(plain[name], formed[name]) for name in plain)


def test_the_trial_leaves_weights_buffers_and_random_numbers_alone() -> None:
    module = ChangesInputs()
    module.head = nn.Sequential(module.head, nn.BatchNorm1d(10))  # type: ignore[assignment] # a buffer in a block that gets copies
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(3)
    copied_in(module)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    torch.randn(3, 1, 28, 28)  # the images
    assert torch.equal(torch.rand(1), drawn)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_that_goes_on_with_a_changed_input_is_refused() -> None:
    with pytest.raises(UsageError, match=r"goes on with what 'halved' left .* \(inplace=False\)"):
        copied_in(GoesOn())


class Tied(nn.Module):
    """The head's weight is the table's."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.mix(self.table(tokens)))  # type: ignore[no-any-return] # a call


class Called(Tied):
    """Another block is called by a method of its own, which no hook sees."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.mix.forward(super().forward(tokens)[..., :4])


def test_blocks_whose_weights_others_use_are_named() -> None:
    tokens = torch.arange(6).view(2, 3)
    assert shared_in(Words().model(), tokens) == {"table"}
    assert shared_in(Tied(), tokens) == {"table", "head"}
    assert shared_in(Called(), tokens) == {"table", "head", "mix"}
    assert shared_in(tiny(), torch.randn(2, 1, 28, 28)) == frozenset()


def prove(server: ForkServer, framework: str, model: str, form: StepForm) -> RankReport:
    """Proves a step of training in float64, then runs it."""
    gpus = 1 if framework == "single" else 2
    case = Case(framework, model, gpus, "train", batch_size=4, form=form)
    asked = RunRequest(case, Catalog().framework(framework).worker, model, 2, 1)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S)
    evidence = agree(case, ranks.launch(PROVE, asked))
    for kind in ("gradients", "parameters", "buffers"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9
    reports: list[RankReport] = ranks.launch(MEASURE, replace(asked, recheck=True))
    return reports[0]


@pytest.mark.parametrize(
    ("framework", "form"),
    [
        ("fsdp", StepForm()),
        ("fsdp", StepForm(checkpointing=True, accumulate=2)),
        ("single", StepForm(checkpointing=True)),
    ],
)
def test_a_step_of_such_a_model_is_proven(
    server: ForkServer, framework: str, form: StepForm
) -> None:
    report = prove(server, framework, CHANGES, form)
    assert report.details["copied_inputs"] == ["halved", "head", "hands_on"]


@pytest.mark.parametrize("model", ["Words", "TiedWords"])
def test_blocks_whose_weights_others_use_stay_with_the_root(server: ForkServer, model: str) -> None:
    report = prove(server, "fsdp", f"tests.own_workloads:{model}", StepForm())
    assert report.details["wrapped"] == ["mix", "(root)"]


def test_split_layers_whose_outputs_are_changed_give_copies(server: ForkServer) -> None:
    report = prove(server, "tp", "tests.own_workloads:SplitInPlace", StepForm())
    assert report.details["copied_outputs"] == ["up", "down"]


def test_single_without_checkpointing_copies_nothing(server: ForkServer) -> None:
    assert "copied_inputs" not in prove(server, "single", CHANGES, StepForm()).details


def test_a_model_that_goes_on_is_refused_before_anything_is_timed(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="goes on with what 'halved' left in its input"):
        prove(server, "fsdp", GOES_ON, StepForm())
