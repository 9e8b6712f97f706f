"""The correctness gate: right steps pass on real models, planted faults do not."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.pipedream import PipeDreamWorker
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.proof.comparison import deviation
from pytest_dnnbench.rank.proof.data_parallel_reference import Reference
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.patience import HANG_S

TRAINED = ["loss in float32", "gradients in float32", "gradients", "buffers", "parameters"]
VALIDATED = ["logits in float32", "logits"]
TINY = "tests.tiny_models:tiny"


def prove(
    server: ForkServer, worker: str, gpus: int, *, model: str = TINY, phase: str = "train"
) -> CorrectnessEntry:
    case = Case("planted", model, gpus, phase, batch_size=4)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S)
    request = RunRequest(case, worker, Catalog().model(model), steps=1, warmup=0)
    return agree(case, ranks.launch(PROVE, request))


@pytest.mark.parametrize(("framework", "gpus"), [("single", 1), ("ddp", 1), ("ddp", 2), ("ddp", 3)])
@pytest.mark.parametrize("phase", ["train", "validate"])
def test_a_right_step_passes(server: ForkServer, framework: str, gpus: int, phase: str) -> None:
    evidence = prove(server, Catalog().framework(framework).worker, gpus, phase=phase)
    assert evidence.ranks_agree == "bit for bit"
    assert evidence.checked == (TRAINED if phase == "train" else VALIDATED)


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_b0"])
def test_models_with_batchnorm_dropout_and_stochastic_depth_pass(
    server: ForkServer, model: str
) -> None:
    evidence = prove(server, Catalog().framework("ddp").worker, 2, model=model)
    for kind in ("gradients", "parameters", "buffers"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-7


@pytest.mark.parametrize(
    ("worker", "failure"),
    [
        ("NoAllReduce", "gradients of step 0"),
        ("NoBroadcast", "holds other values than rank 0"),
        ("OneUnsynchronised", "gradients of step 0: 6.bias"),
        ("OtherLearningRate", "parameters of step 0"),
    ],
)
def test_a_planted_fault_is_caught(server: ForkServer, worker: str, failure: str) -> None:
    with pytest.raises(WrongResult, match="the step is wrong, so it was not timed") as caught:
        prove(server, f"tests.rank.broken_workers:{worker}", 2)
    assert failure in str(caught.value)


def test_a_missing_broadcast_also_spoils_validation(server: ForkServer) -> None:
    with pytest.raises(WrongResult, match="logits of rank 1"):
        prove(server, "tests.rank.broken_workers:NoBroadcast", 2, phase="validate")


def test_the_reference_equals_sgd_on_the_joined_batch_where_there_is_no_batchnorm() -> None:
    torch.manual_seed(0)
    ours, plain = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()
    plain.load_state_dict(ours.state_dict())
    request = RunRequest(Case("single", "m", 1, "train"), "", "m", 1, 0)
    sgd = torch.optim.SGD(
        plain.parameters(),
        request.learning_rate,
        request.momentum,
        weight_decay=request.weight_decay,
    )
    reference = Reference(ImageWorkload("", 28), ours, request)
    for _ in range(4):
        shards = [(torch.randn(5, 6).double(), torch.randint(3, (5,))) for _ in range(3)]
        expected = reference.differentiate(shards)
        gradients = {name: each.clone() for name, each in expected.gradients.items()}
        reference.update(expected.gradients, expected.buffers)
        sgd.zero_grad()
        images, labels = (torch.cat(parts) for parts in zip(*shards, strict=True))
        cross_entropy(plain(images), labels).backward()  # type: ignore[no-untyped-call] # torch's gap
        sgd.step()
        assert deviation(reference.parameters, dict(plain.named_parameters()))[0] < 1e-15
        assert (
            deviation(
                gradients,
                {n: p.grad for n, p in plain.named_parameters() if p.grad is not None},
            )[0]
            < 1e-15
        )


@pytest.mark.parametrize(
    "got",
    [
        {},
        {"a": torch.zeros(3)},
        {"a": torch.tensor([1.0, float("nan")])},
        {"a": torch.ones(2), "b": torch.ones(1)},
    ],
)
def test_what_cannot_be_compared_deviates_without_bound(got: dict[str, torch.Tensor]) -> None:
    assert deviation(got, {"a": torch.ones(2)})[0] == float("inf")


def test_a_deviation_is_relative_to_large_tensors_and_absolute_for_small_ones() -> None:
    assert deviation({"a": torch.tensor([101.0])}, {"a": torch.tensor([100.0])})[
        0
    ] == pytest.approx(0.01)
    assert deviation({"a": torch.tensor([0.02])}, {"a": torch.tensor([0.01])})[0] == pytest.approx(
        0.01
    )


@pytest.mark.parametrize(
    ("worker", "weights"),
    [
        (SingleWorker, lambda worker: worker.fresh_module(0)),
        (PipeDreamWorker, lambda worker: worker.model()),
    ],
)
def test_a_model_has_the_weights_of_its_seed_the_first_time_too(worker: Any, weights: Any) -> None:
    """A launch trained other weights than its proof: its workload was made, by a call of the user's
    factory that drew numbers, after the seed was set."""
    request = RunRequest(Case("single", "tiny", 1, "train"), "", "tests.tiny_models:tiny", 1, 0)
    made = worker(Place(0, 1, "cpu", 1, "", 60.0), request)
    first, second = weights(made).state_dict(), weights(made).state_dict()
    assert all(torch.equal(each, second[name]) for name, each in first.items())
