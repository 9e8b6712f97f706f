"""`ddp` with synchronised batch normalisation: proven against the shards as one batch. torch's
layer needs GPUs (tests/gpu); here one of the tests' own stands in for it on CPU ranks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.workloads.batches import joined, parted
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

DEEP = "tests.tiny_models:deep"
RANKING = "tests.own_workloads:Ranking"


def request(
    model: str, worker: str = "Right", gpus: int = 2, phase: str = "train", passes: int = 1
) -> RunRequest:
    case = Case(
        "ddp",
        model,
        gpus,
        phase,
        batch_size=4,
        options={"sync_batchnorm": True},
        form=StepForm(accumulate=passes),
    )
    path = f"tests.rank.synchronising_workers:{worker}"
    return RunRequest(case, path, Catalog().model(model), 2, 1, recheck=True)


def prove(server: ForkServer, asked: RunRequest) -> CorrectnessEntry:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    return agree(asked.case, ranks.launch(PROVE, asked))


@pytest.mark.parametrize(("model", "gpus", "passes"), [(DEEP, 2, 1), (DEEP, 3, 1), (RANKING, 2, 2)])
def test_statistics_of_all_samples_are_proven(
    server: ForkServer, model: str, gpus: int, passes: int
) -> None:
    evidence = prove(server, request(model, gpus=gpus, passes=passes))
    assert "the shards together" in str(evidence.about["reference"])
    for kind in ("gradients", "parameters", "buffers"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9


@pytest.mark.parametrize("fault", ["Unsynchronised", "MeansAlone", "ForwardAlone"])
def test_statistics_of_a_part_are_caught(server: ForkServer, fault: str) -> None:
    with pytest.raises(WrongResult, match="gradients of step 0"):
        prove(server, request(DEEP, fault))


def test_the_trained_model_is_checked_against_the_samples_of_all_ranks(
    server: ForkServer,
) -> None:
    asked = request(DEEP)
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    reports = ranks.launch(MEASURE, asked)
    assert reports[0].details["sync_batchnorm"] is True
    own_statistics = replace(asked, worker="tests.rank.synchronising_workers:Unsynchronised")
    with pytest.raises(WrongResult, match="after the timed steps the model computes something"):
        ranks.launch(MEASURE, own_statistics)


def test_validation_uses_the_running_statistics(server: ForkServer) -> None:
    assert prove(server, request(DEEP, phase="validate")).checked == ["logits in float32", "logits"]


def test_a_model_without_batch_normalisation_is_refused(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="mlp has no batch normalisation; leave it out"):
        prove(server, request("mlp"))


def test_torchs_layer_takes_weights_buffers_and_names() -> None:
    worker = DdpWorker(Place(0, 2, "cuda:0", 1, "", 60.0), request(DEEP))
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    held = plain.state_dict(keep_vars=True)
    converted = worker.converted(plain)
    assert isinstance(converted[1], nn.SyncBatchNorm)  # type: ignore[index] # a Sequential
    assert {name: id(each) for name, each in held.items()} == {
        name: id(each) for name, each in converted.state_dict(keep_vars=True).items()
    }


def test_inputs_are_joined_and_outputs_parted() -> None:
    first, second = torch.ones(2, 3), torch.zeros(4, 3)
    inputs = joined([{"x": (first, "name")}, {"x": (second, "name")}])
    assert torch.equal(inputs["x"][0], torch.cat([first, second]))
    assert inputs["x"][1] == "name"
    parts = parted({"y": inputs["x"][0]}, [2, 4])
    assert torch.equal(parts[0]["y"], first)
    assert torch.equal(parts[1]["y"], second)
    with pytest.raises(UsageError, match=r"output of shape \(3, 6\) has not the 6 samples"):
        parted(inputs["x"][0].T, [2, 4])
