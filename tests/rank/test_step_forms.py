"""Every form of a step that CPU ranks can have: proven right, a wrong one caught, and put into
effect."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.proof.arithmetic import FLOAT32
from pytest_dnnbench.rank.proof.data_parallel_reference import Reference
from pytest_dnnbench.rank.proof.distance import distance
from pytest_dnnbench.rank.proof.randomness import draws
from pytest_dnnbench.rank.step_forms import form_module, fuse, laid_out
from pytest_dnnbench.rank.workloads.batches import synthetic_batch, wide
from pytest_dnnbench.rank.workloads.image_models import widen
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.own_workloads import Tuples, Words
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"
WHOLE = "memory_format", "fused", "checkpointing", "accumulate"
FORMS = {
    "channels_last": StepForm(memory_format="channels_last"),
    "fused": StepForm(fused=True),
    "checkpointing": StepForm(checkpointing=True),
    "accumulate3": StepForm(accumulate=3),
    "all": StepForm("channels_last", fused=True, checkpointing=True, accumulate=2),
}


def prove(
    server: ForkServer,
    framework: str,
    gpus: int,
    form: StepForm,
    *,
    model: str = TINY,
    phase: str = "train",
    worker: str = "",
    **options: int,
) -> CorrectnessEntry:
    case = Case(framework, model, gpus, phase, batch_size=4, form=form, options={**options})
    asked = RunRequest(case, worker or Catalog().framework(framework).worker, model, 3, 1)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S)
    meeting = {"rendezvous": horovod_rendezvous} if framework == "horovod" else {}
    return agree(case, ranks.launch(PROVE, asked, **meeting))


@pytest.mark.parametrize(
    ("framework", "gpus", "form"),
    [
        *(("single", 1, name) for name in ("channels_last", "fused", "checkpointing", "all")),
        *(("ddp", 2, name) for name in ("accumulate3", "all")),
        ("horovod", 2, "all"),
    ],
)
def test_a_step_in_a_form_is_proven(
    server: ForkServer, framework: str, gpus: int, form: str
) -> None:
    evidence = prove(server, framework, gpus, FORMS[form])
    assert evidence.about["form"] == FORMS[form].label
    for kind in ("gradients in float32", "loss in float32", "gradients", "parameters", "buffers"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind]
    assert max(evidence.tolerance[kind] for kind in ("gradients", "parameters")) < 1e-9


def test_a_workload_of_the_users_is_proven_in_forms(server: ForkServer) -> None:
    form = StepForm(fused=True, checkpointing=True, accumulate=2)
    assert prove(server, "ddp", 2, form, model="tests.own_workloads:Ranking").about["form"] == (
        "fused-checkpointing-accumulate2"
    )


@pytest.mark.parametrize(
    ("fault", "form", "failure"),
    [
        ("Undivided", "accumulate3", "gradients in float32 of the timed step"),
        ("KeepsEveryPass", "accumulate3", "gradients in float32 of the timed step"),
        ("CountsTwice", "checkpointing", "buffers of step 0"),
        ("ForgetsMomentum", "fused", "parameters of step 1"),
    ],
)
def test_a_wrong_form_is_caught(server: ForkServer, fault: str, form: str, failure: str) -> None:
    with pytest.raises(WrongResult, match=failure):
        prove(server, "ddp", 2, FORMS[form], worker=f"tests.rank.broken_forms:{fault}")


def formed(path: str, seed: int, form: StepForm) -> nn.Module:
    torch.manual_seed(seed)
    images = ImageWorkload(path, 28)
    model = images.model().double()
    form_module(model, form, images)
    return model


def test_channels_last_lays_out_weights_and_images_and_nothing_else() -> None:
    form = FORMS["channels_last"]
    model = formed(TINY, 0, form)
    weight = dict(model.named_parameters())["0.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 5, 5)
    laid, labels = laid_out((images, torch.zeros(2)), form)
    assert laid.is_contiguous(memory_format=torch.channels_last)
    assert not laid.is_contiguous()
    assert torch.equal(laid, images)
    assert labels.shape == (2,)
    again, _ = laid_out((laid, labels), form)
    assert again.data_ptr() == laid.data_ptr()


def test_channels_last_is_refused_where_there_are_no_images() -> None:
    message = r"inputs have the shapes \(4, 3\), \(4, 4\): use --dnn-memory-format contiguous"
    with pytest.raises(UsageError, match=message):
        laid_out(Tuples().batch(4), FORMS["channels_last"])


def test_checkpointing_keeps_less_and_gives_the_same_bits() -> None:
    """Dropout draws the same numbers in the second pass, batch normalisation counts once."""
    results = {}
    for name in ("plain", "checkpointing"):
        model = formed("tests.tiny_models:deep", 1, FORMS.get(name, StepForm()))
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        torch.manual_seed(2)
        images = torch.randn(8, 1, 28, 28, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(images).square().mean()
        loss.backward()
        gradients = [each.grad for each in model.parameters()]
        results[name] = loss, gradients, [*model.buffers()], kept
    (loss, gradients, buffers, kept), (again, same, held, fewer) = results.values()
    assert torch.equal(loss, again)
    for each, other in zip([*gradients, *buffers], [*same, *held], strict=True):
        assert each is not None
        assert other is not None
        assert torch.equal(each, other)
    assert fewer < 0.7 * kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda weights: torch.optim.RMSprop(weights), "RMSprop has no fused form"),
        (lambda weights: torch.optim.SGD(weights, foreach=True), "SGD was made with foreach=True"),
    ],
)
def test_an_optimiser_without_a_fused_form_is_refused(make: object, message: str) -> None:
    weights = [nn.Parameter(torch.ones(2))]
    with pytest.raises(UsageError, match=re.escape(message)):
        fuse(make(weights))  # type: ignore[operator]


def test_a_fused_optimiser_runs_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fused = torch._fused_sgd_

    def counted(weights: Sequence[torch.Tensor], *rest: Any, **more: Any) -> None:
        calls.append(len(weights))
        fused(list(weights), *rest, **more)

    monkeypatch.setattr(torch, "_fused_sgd_", counted)
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimiser = fuse(torch.optim.SGD(weights, lr=0.5, momentum=0.9))
    for each in weights:
        each.grad = torch.ones_like(each)
    optimiser.step()
    assert calls == [2]
    assert weights[0].tolist() == [0.5, 0.5]


def test_a_call_that_draws_numbers_is_told_from_one_that_does_not() -> None:
    model = Words().model()
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    assert draws(lambda: model(tokens)) in ("bernoulli_", "native_dropout")
    model.eval()
    assert draws(lambda: model(tokens)) == ""


@pytest.mark.parametrize(
    ("model", "count", "some"),
    [
        ("resnet18", 11, ("conv1", "layer1.0", "layer4.1", "fc")),
        ("efficientnet_b0", 19, ("features.0", "features.1.0", "features.8", "classifier")),
    ],
)
def test_the_blocks_of_a_classifier_are_those_that_repeat(
    model: str, count: int, some: tuple[str, ...]
) -> None:
    images = ImageWorkload(f"torchvision.models:{model}", 28)
    with torch.device("meta"):
        names = images.blocks(images.model())
    assert len(names) == count
    assert set(some) <= set(names)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_bias_before_a_normalisation_stays_within_its_bound(memory_format: str) -> None:
    """Its gradient is zero but for rounding, which batch normalisation in channels_last makes alike
    in a whole channel: it added up to more than the bound, and a right pipeline was refused."""
    form = StepForm(memory_format)
    images = ImageWorkload("tests.pipeline.models:residual", 28)
    asked = RunRequest(Case("single", "", 1, "train", form=form), "", "", 1, 1)
    batch = synthetic_batch(images, 0, 0, torch.device("cpu"), size=64, seed=2)
    torch.manual_seed(2)
    plain = images.model()
    timed = copy.deepcopy(plain)
    reference = Reference(images, widen(plain), asked)
    expected = reference.differentiate([wide(batch)])
    bounds = reference.bounds([wide(batch)], 1, expected, FLOAT32).gradients
    form_module(timed, form, images)
    images.loss_of(timed, laid_out(batch, form)).backward()  # type: ignore[no-untyped-call] # torch's gap
    for name, weight in timed.named_parameters():
        assert weight.grad is not None
        assert distance(weight.grad, expected.gradients[name]) <= bounds[name], name
