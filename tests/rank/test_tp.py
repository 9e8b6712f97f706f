"""`tp`: proven on two and four ranks; planted faults caught; what cannot be split refused; samples
counted once."""

from dataclasses import replace

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

VIT, SWIN = "tests.tiny_models:vit", "tests.tiny_models:swin"
WINDOWS = tuple(f"tests.tiny_models:{name}" for name in ("windows", "windows_v2", "maxvit"))


def request(
    model: str,
    gpus: int,
    options: dict[str, Scalar] | None = None,
    *,
    phase: str = "train",
    worker: str = "",
) -> RunRequest:
    case = Case("tp", model, gpus, phase, batch_size=2, options=options or {})
    row = Catalog().framework("tp")
    return RunRequest(case, worker or row.worker, Catalog().model(model), 2, 1, recheck=True)


def prove(server: ForkServer, asked: RunRequest) -> CorrectnessEntry:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    return agree(asked.case, ranks.launch(PROVE, asked))


@pytest.mark.parametrize(
    ("model", "gpus"),
    [
        *(("gpt-tiny", 2), ("gpt-tiny", 4), ("llama-tiny", 2), ("mlp", 2), ("mlp", 4)),
        *((VIT, 2), (VIT, 4), (SWIN, 2), *((model, gpus) for model in WINDOWS for gpus in (2, 4))),
    ],
)
def test_a_right_step_is_proven(server: ForkServer, model: str, gpus: int) -> None:
    evidence = prove(server, request(model, gpus))
    assert evidence.ranks_agree == "bit for bit"
    for kind in ("gradients", "parameters"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9


GPT = "tests.own_workloads:small_gpt"
SEQUENCE: dict[str, Scalar] = {"sequence": True}
FSDP: dict[str, Scalar] = {"ranks": 2}
COPIES: dict[str, Scalar] = {"ranks": 2, "replicas": "copies"}


@pytest.mark.parametrize(
    ("model", "gpus", "options"),
    [
        (GPT, 2, SEQUENCE),
        (GPT, 4, SEQUENCE),
        ("llama-tiny", 2, SEQUENCE),
        (GPT, 4, FSDP),
        ("mlp", 4, FSDP),
        (GPT, 4, FSDP | SEQUENCE),
        (GPT, 4, COPIES | SEQUENCE),
        ("mlp", 4, COPIES),
        (VIT, 4, COPIES),
        (VIT, 4, FSDP),
        (WINDOWS[1], 4, FSDP),
        (WINDOWS[2], 4, COPIES),
    ],
)
def test_a_right_step_with_options_is_proven(
    server: ForkServer, model: str, gpus: int, options: dict[str, Scalar]
) -> None:
    evidence = prove(server, request(model, gpus, options))
    assert evidence.ranks_agree == "bit for bit"
    for kind in ("gradients", "parameters"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9
    assert evidence.largest_deviation["gradients in float32"] > 0


@pytest.mark.parametrize("options", [{}, FSDP | SEQUENCE, COPIES])
def test_forms_of_a_step_are_proven_together(
    server: ForkServer, options: dict[str, Scalar]
) -> None:
    asked = request(GPT, 4 if options else 2, options)
    form = StepForm(fused=True, checkpointing=True, accumulate=2)
    evidence = prove(server, replace(asked, case=replace(asked.case, form=form)))
    assert evidence.largest_deviation["parameters"] <= evidence.tolerance["parameters"] < 1e-9


def test_a_fused_step_of_sgd_is_proven(server: ForkServer) -> None:
    asked = request("mlp", 2)
    evidence = prove(server, replace(asked, case=replace(asked.case, form=StepForm(fused=True))))
    assert evidence.largest_deviation["parameters"] <= evidence.tolerance["parameters"] < 1e-9


@pytest.mark.parametrize("model", ["gpt-tiny", "tests.awkward_models:Transformer"])
def test_validation_is_proven(server: ForkServer, model: str) -> None:
    """Of the second, torch's fast path takes weights that are whole."""
    evidence = prove(server, request(model, 2, phase="validate"))
    assert evidence.checked == ["logits in float32", "logits"]


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("UnevenCopies", "holds other values than rank 0"),
        ("NoSum", "loss in float32 of the timed step"),
        ("OtherSamples", "gradients of step 0"),
    ],
)
def test_a_wrong_step_is_caught(server: ForkServer, fault: str, failure: str) -> None:
    with pytest.raises(WrongResult, match=failure):
        prove(server, request("mlp", 2, worker=f"tests.rank.broken_sharding:{fault}"))


@pytest.mark.parametrize(
    ("model", "fault", "gpus", "options", "failure"),
    [
        (VIT, "PlainRows", 2, {}, "gradients in float32 of the timed step"),
        (GPT, "KeptParts", 2, SEQUENCE, "holds other values than rank 0|gradients of step 0"),
        (GPT, "LoneReplicas", 4, COPIES, "gradients of step 0|holds other values than rank 0"),
        (GPT, "SameSamples", 4, FSDP, "gradients of step 0"),
        (
            GPT,
            "SummedReplicas",
            4,
            FSDP,
            "gradients of step 0|gradients in float32 of the timed step",
        ),
    ],
)
def test_a_wrong_step_with_options_is_caught(
    server: ForkServer,
    model: str,
    fault: str,
    gpus: int,
    options: dict[str, Scalar],
    failure: str,
) -> None:
    asked = request(model, gpus, options, worker=f"tests.rank.broken_sharding:{fault}")
    with pytest.raises(WrongResult, match=failure):
        prove(server, asked)


@pytest.mark.parametrize(
    ("model", "gpus", "message"),
    [
        ("tests.tiny_models:tiny", 2, "of transformers, and '0' is a convolution: use a"),
        (VIT, 3, "no feed-forward or attention of the model can be shared evenly by 3 ranks"),
        ("tests.own_workloads:Words", 2, "does not say which linear layers to split"),
        ("llama-tiny", 4, "has 2 heads, which 4 ranks cannot share evenly"),
        ("tests.own_workloads:SplitsNothing", 2, "Workload.split has 'nowhere': 'column': name"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_line(
    server: ForkServer, model: str, gpus: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        prove(server, request(model, gpus))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "sequence_length", "message"),
    [
        ("mlp", 0, "does not say where its sequence can be shared out"),
        (
            "tests.own_workloads:CutsNothing",
            0,
            "Workload.sequence has 'nowhere': 'cut': name parts",
        ),
        (GPT, 31, "a sample has 31 tokens, which 2 ranks cannot share evenly"),
    ],
)
def test_a_sequence_that_cannot_be_shared_out_is_refused(
    server: ForkServer, model: str, sequence_length: int, message: str
) -> None:
    asked = request(model, 2, SEQUENCE)
    case = replace(asked.case, sequence_length=sequence_length)
    with pytest.raises(UsageError, match=message):
        prove(server, replace(asked, case=case))


def test_replicas_count_their_samples_and_share_out_their_weights(server: ForkServer) -> None:
    ranks = Ranks(server, ["cpu"] * 4, threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = ranks.launch(MEASURE, request(GPT, 4, FSDP | SEQUENCE))
    assert [set(report.step_samples) for report in reports] == [{2 * 2 * 32}, {0}] * 2
    assert {report.samples_per_update for report in reports} == {4 * 2 * 32}
    assert len({report.fingerprint for report in reports}) == 1
    assert reports[0].details["replicas"] == 2
    assert reports[0].details["wrapped"] == ["blocks.0", "blocks.1", "(root)"]
    split, shared = 2 * 12 * 16 * 16, (256 + 32) * 16
    assert reports[0].metrics["parameter_bytes"] <= 4 * (split / 4 + shared / 2 + 2 * 8 * 16)


def test_samples_are_counted_once_and_weights_are_shared_out(server: ForkServer) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = ranks.launch(MEASURE, request("gpt-tiny", 2))
    assert [set(report.step_samples) for report in reports] == [{2 * 2 * 128}, {0}]
    assert {report.samples_per_update for report in reports} == {2 * 2 * 128}
    assert reports[0].fingerprint == reports[1].fingerprint != ""
    assert reports[0].details["column"] == 16
    # Of 8 * 128 * 128 weights in the matrices of each block, a rank holds half.
    split = 4 * (12 * 128 * 128 // 2) * 4
    whole = 4 * 842_496
    assert (
        whole - split - 4 * 4 * 8 * 128 < reports[0].metrics["parameter_bytes"] < whole - split + 1
    )
