"""Data-parallel proofs of models as users have them: proven right, or refused in one line."""

import re

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.patience import HANG_S


def prove(
    server: ForkServer,
    framework: str,
    gpus: int,
    model: str,
    *,
    phase: str = "train",
    worker: str = "",
    **settings: Scalar,
) -> CorrectnessEntry:
    """The proof of a model of tests/awkward_models.py. `precision` is the case's; other settings
    are the framework's options."""
    model = f"tests.awkward_models:{model}"
    precision = str(settings.pop("precision", "fp32"))
    case = Case(framework, model, gpus, phase, batch_size=4, precision=precision, options=settings)
    row = Catalog().framework(framework)
    request = RunRequest(case, worker or row.worker, model, steps=1, warmup=0)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S)
    rendezvous = {"rendezvous": horovod_rendezvous} if framework == "horovod" else {}
    return agree(case, ranks.launch(PROVE, request, **rendezvous))


@pytest.mark.parametrize(
    ("framework", "gpus", "model"),
    [
        ("single", 1, "Transformer"),
        ("ddp", 2, "Transformer"),
        ("single", 1, "Recurrent"),
        ("ddp", 2, "DropPath"),
        ("single", 1, "FrozenBackbone"),
        ("ddp", 2, "FrozenBackbone"),
        ("horovod", 2, "FrozenBackbone"),
        ("ddp", 2, "RunningCenter"),
        ("horovod", 2, "RunningCenter"),
        ("single", 1, "Unused"),
        ("horovod", 1, "Unused"),
        ("horovod", 2, "Unused"),
        ("single", 1, "Lazy"),
        ("ddp", 2, "Lazy"),
        ("single", 1, "Permuting"),
        ("ddp", 2, "ChannelsLast"),
        ("horovod", 1, "ChannelsLast"),
        ("horovod", 2, "ChannelsLast"),
        ("single", 1, "Bfloat16"),
        ("ddp", 2, "Bfloat16"),
        ("single", 1, "OneBfloat16Layer"),
        ("single", 1, "Spectral"),
        ("single", 1, "Deep"),
        ("ddp", 2, "Deep"),
        ("single", 1, "NoGrad"),
        ("single", 1, "Autocast"),
    ],
)
def test_a_right_step_passes(server: ForkServer, framework: str, gpus: int, model: str) -> None:
    evidence = prove(server, framework, gpus, model)
    for kind, deviation in evidence.largest_deviation.items():
        assert deviation <= evidence.tolerance[kind]


def test_parameters_without_a_gradient_are_looked_for_when_asked(server: ForkServer) -> None:
    prove(server, "ddp", 2, "Unused", find_unused_parameters=True)
    with pytest.raises(
        UsageError, match=r"'spare.weight', 'spare.bias'\): add --dnn-ddp-find-unused"
    ):
        prove(server, "ddp", 2, "Unused")


@pytest.mark.parametrize(
    ("framework", "gpus", "model", "message"),
    [
        ("single", 1, "Sparse", "'table.weight' is sparse.*sparse=False"),
        ("single", 1, "Dictionary", "a dict with the keys 'logits', not one tensor: wrap it"),
        ("ddp", 2, "Wrapped", "returns a Output, not one tensor: wrap it"),
        ("ddp", 2, "Collective", "the model's forward calls a collective"),
        ("horovod", 2, "Spectral", "'filter' is of type complex64, which Horovod cannot exchange"),
        ("horovod", 2, "Bfloat16", "of type bfloat16, which Horovod cannot exchange"),
    ],
)
def test_what_cannot_be_proven_is_refused_in_a_line(
    server: ForkServer, framework: str, gpus: int, model: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        prove(server, framework, gpus, model)
    assert "\n" not in str(caught.value)


def test_a_model_that_stays_random_is_told_so(server: ForkServer) -> None:
    with pytest.raises(WrongResult, match="the model is random: two passes"):
        prove(server, "single", 1, "PythonRandom")


def test_what_is_recorded_names_the_types(server: ForkServer) -> None:
    about = prove(server, "single", 1, "OneBfloat16Layer").about
    assert (about["weights"], about["timed arithmetic"]) == ("bfloat16, float32", "float32")
    about = prove(server, "single", 1, "Autocast").about
    assert (about["weights"], about["timed arithmetic"]) == ("float32", "bfloat16")


def test_a_step_in_bf16_is_proven_at_the_bound_of_bf16(server: ForkServer) -> None:
    evidence = prove(server, "ddp", 2, "Base", precision="bf16")
    assert evidence.largest_deviation["gradients in bfloat16"] > 1e-5
    assert evidence.tolerance["gradients in bfloat16"] < 0.5
    assert evidence.tolerance["gradients"] < 1e-11, "float64 is as strict as ever"


@pytest.mark.parametrize(
    ("fault", "model"),
    [
        (fault, model)
        for fault in ("NoAllReduce", "OtherLearningRate", "StaleMomentum")
        for model in ("Base", "Deep", "Transformer")
    ],
)
def test_a_wrong_step_is_caught_in_every_model(server: ForkServer, fault: str, model: str) -> None:
    with pytest.raises(WrongResult, match="the step is wrong"):
        prove(server, "ddp", 2, model, worker=f"tests.rank.broken_workers:{fault}")


def test_a_framework_that_is_right_in_double_precision_only_is_caught(server: ForkServer) -> None:
    with pytest.raises(WrongResult, match=r"gradients in float32 of the timed step") as caught:
        prove(server, "ddp", 2, "Base", worker="tests.rank.broken_workers:RightInDoubleOnly")
    assert not re.search(r"(gradients|parameters|buffers) of step", str(caught.value))


def test_a_validation_that_is_right_in_double_precision_only_is_caught(server: ForkServer) -> None:
    with pytest.raises(WrongResult, match="logits in float32 of rank 0"):
        prove(
            server,
            "ddp",
            1,
            "Base",
            phase="validate",
            worker="tests.rank.broken_workers:ZerosInSingle",
        )
