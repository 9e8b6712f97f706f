"""`ddp`'s own options: each is proven, at the bound that it needs and no wider, or refused."""

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Place, RankReport, RunRequest
from pytest_dnnbench.rank.frameworks import ddp
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"
OWN = "tests.own_workloads:Ranking"


def request(
    options: dict[str, Scalar], model: str = TINY, *, worker: str = "", accumulate: int = 1
) -> RunRequest:
    form = StepForm(accumulate=accumulate)
    case = Case("ddp", model, 2, "train", batch_size=4, options=options, form=form)
    return RunRequest(case, worker or Catalog().framework("ddp").worker, model, 2, 1)


def prove(server: ForkServer, asked: RunRequest) -> CorrectnessEntry:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    return agree(asked.case, ranks.launch(PROVE, asked))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (TINY, {"bucket_mb": 0.001}),
        (TINY, {"static_graph": True}),
        (TINY, {"gradient_as_bucket_view": True}),
        (OWN, {"bucket_mb": 0.0001, "static_graph": True, "gradient_as_bucket_view": True}),
    ],
    ids=str,
)
def test_tuning_does_not_change_the_mathematics(
    server: ForkServer, model: str, options: dict[str, Scalar]
) -> None:
    evidence = prove(server, request(options, model))
    assert all(evidence.tolerance[kind] < 1e-9 for kind in ("gradients", "parameters", "buffers"))


class Wrapping(nn.Module):
    """In place of DistributedDataParallel: notes how it is called."""

    def __init__(self, module: nn.Module, **settings: object) -> None:
        super().__init__()
        self.settings = settings


@pytest.mark.parametrize(
    ("options", "given"),
    [({}, {}), ({"bucket_mb": 25.0}, {}), ({"bucket_mb": 2.0}, {"bucket_cap_mb": 2.0})],
)
def test_the_default_buckets_are_torchs(
    options: dict[str, Scalar], given: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 25 MiB that are given, torch does not make the first one smaller."""
    monkeypatch.setattr(ddp, "DistributedDataParallel", Wrapping)
    module = nn.Linear(1, 1)
    worker = DdpWorker(Place(0, 2, "cpu", 1, "", 60.0), request(options))
    model, _ = worker.wrap(module, torch.optim.SGD(module.parameters()))
    assert isinstance(model, Wrapping)
    cap = "bucket_cap_mb"
    assert {name: value for name, value in model.settings.items() if name == cap} == given


@pytest.mark.parametrize("model", [TINY, OWN])
def test_the_fp16_hook_rounds_gradients_and_nothing_else(server: ForkServer, model: str) -> None:
    deviation = prove(server, request({"hook": "fp16"}, model)).largest_deviation
    assert 1e-6 < deviation["gradients"] < 5e-3
    assert deviation["parameters"] < 1e-12
    assert deviation["buffers"] < 1e-12


def test_a_hook_that_rounds_does_not_hide_a_wrong_step(server: ForkServer) -> None:
    fault = "tests.rank.broken_workers:SummedGradients"
    with pytest.raises(WrongResult, match="gradients of step 0"):
        prove(server, request({"hook": "fp16"}, worker=fault))


def test_the_bf16_hook_is_taken_on_a_gpu() -> None:
    worker = DdpWorker(Place(0, 2, "cuda:0", 1, "", 60.0), request({"hook": "bf16"}))
    assert worker.rounding is not None
    assert worker.rounding.relative == pytest.approx(4 * 3 * 2**-8)


def test_the_options_in_force_are_recorded(server: ForkServer) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = ranks.launch(MEASURE, request({"bucket_mb": 2.0, "hook": "fp16"}))
    details = reports[0].details
    assert (details["bucket_mb"], details["hook"], details["static_graph"]) == (2.0, "fp16", False)
