"""`fsdp`: proven on two and four ranks, with and without BatchNorm, in the timed types too; planted
faults caught; what a rank saves is recorded."""

from dataclasses import replace

import pytest
import torch

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.rank.shardable import check_shardable
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"
GPT = "gpt-nano"
OWN = "tests.own_workloads"


def request(
    model: str, gpus: int, phase: str = "train", worker: str = "", **options: Scalar
) -> RunRequest:
    row = Catalog().framework("fsdp")
    case = Case("fsdp", model, gpus, phase, batch_size=4, options=options)
    path = Catalog().model(model)
    return RunRequest(case, worker or row.worker, path, 2, 1, recheck=True)


def prove(server: ForkServer, asked: RunRequest) -> CorrectnessEntry:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    return agree(asked.case, ranks.launch(PROVE, asked))


@pytest.mark.parametrize(
    ("model", "gpus"),
    [(TINY, 1), (TINY, 2), (TINY, 4), (GPT, 2), (GPT, 4), (f"{OWN}:Ranking", 2)],
)
def test_a_right_step_is_proven(server: ForkServer, model: str, gpus: int) -> None:
    evidence = prove(server, request(model, gpus))
    assert evidence.ranks_agree == "bit for bit"
    for kind in ("gradients", "parameters"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9
    assert evidence.largest_deviation["gradients in float32"] > 0


def test_forms_of_a_step_are_proven_together(server: ForkServer) -> None:
    form = StepForm(fused=True, checkpointing=True, accumulate=2)
    asked = request(GPT, 2)
    evidence = prove(server, replace(asked, case=replace(asked.case, form=form)))
    assert evidence.largest_deviation["parameters"] <= evidence.tolerance["parameters"] < 1e-9


def test_a_fused_step_of_sgd_is_proven(server: ForkServer) -> None:
    """torch's fused SGD takes no weights in parts."""
    asked = request(TINY, 2)
    evidence = prove(server, replace(asked, case=replace(asked.case, form=StepForm(fused=True))))
    assert evidence.largest_deviation["parameters"] <= evidence.tolerance["parameters"] < 1e-9


def accumulating(reduce: str, worker: str = "", passes: int = 3) -> RunRequest:
    asked = request(GPT, 2, "train", worker, **({"reduce": reduce} if reduce else {}))
    return replace(asked, case=replace(asked.case, form=StepForm(accumulate=passes)))


def test_reducing_in_the_last_backward_pass_alone_is_proven(server: ForkServer) -> None:
    evidence = prove(server, accumulating("last"))
    assert evidence.largest_deviation["parameters"] <= evidence.tolerance["parameters"] < 1e-9


@pytest.mark.parametrize(("reduce", "passes"), [("each", 3), ("last", 1)])
def test_gradients_are_reduced_as_often_as_the_option_says(
    server: ForkServer, reduce: str, passes: int
) -> None:
    asked = accumulating(reduce, "tests.rank.counting_workers:CountsReductions")
    reports: list[RankReport] = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S).launch(
        MEASURE, replace(asked, recheck=False)
    )
    units = len(reports[0].details["wrapped"])  # type: ignore[arg-type] # a list
    assert reports[0].details["reductions"] == units * passes


def test_validation_is_proven(server: ForkServer) -> None:
    assert prove(server, request(TINY, 2, "validate")).checked == ["logits in float32", "logits"]


def test_weights_of_the_root_are_freed_after_validation(server: ForkServer) -> None:
    """They stay whole after a pass without gradients, and the fingerprint reads them: NumPy must
    not, or torch could not free them for the check that follows."""
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = ranks.launch(MEASURE, request(GPT, 2, "validate"))
    assert reports[0].fingerprint == reports[1].fingerprint != ""


def test_mixed_precision_is_proven_at_its_own_bound(server: ForkServer) -> None:
    asked = request(GPT, 2, param_dtype="bf16", reduce_dtype="fp32", reshard="yes")
    evidence = prove(server, asked)
    assert evidence.about["timed arithmetic"] == "bfloat16"
    assert evidence.largest_deviation["gradients in bfloat16"] > 1e-5
    assert evidence.tolerance["gradients"] < 1e-9, "float64 is as strict as ever"


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("OwnWeights", "gradients of step 0|gradients in float32 of the timed step"),
        ("SummedShards", "gradients of step 0"),
        ("EarlyOptimiser", "parameters of step 0"),
        ("SecretlyRounded", "gradients in float32 of the timed step"),
    ],
)
def test_a_wrong_step_is_caught(server: ForkServer, fault: str, failure: str) -> None:
    with pytest.raises(WrongResult, match=failure):
        prove(server, request(TINY, 2, worker=f"tests.rank.broken_sharding:{fault}"))


def test_weights_of_several_types_in_one_block_are_refused(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="shards the weights of '0' together"):
        prove(server, request(f"{OWN}:TwoTypes", 2))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor(1.0), r"'w' of stage 0 has no dimension .* give it the shape \(1,\), or use"),
        (torch.zeros(2, 3).t(), r"'w' of stage 0 does not lie in rows, .* memory format as it is"),
        (torch.zeros(2, dtype=torch.cfloat), "of type complex64: give them one real type"),
    ],
)
def test_weights_that_cannot_be_shared_out_are_refused(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_shardable("stage 0", {"w": weight}, "or use something else")


def test_a_model_in_channels_last_is_refused(server: ForkServer) -> None:
    with pytest.raises(UsageError, match=r"the weight 'stem.\d.weight' of 'stem.*' does not lie"):
        prove(server, request("tests.awkward_models:ChannelsLast", 2))


@pytest.fixture(scope="module")
def reports(server: ForkServer) -> list[RankReport]:
    """One timed run of a GPT on two ranks."""
    return Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S).launch(MEASURE, request(GPT, 2))


def test_a_rank_holds_its_part_of_the_weights_and_of_their_state(
    reports: list[RankReport],
) -> None:
    weights = 4 * 103_344
    for report in reports:
        held = report.metrics["parameter_bytes"]
        assert weights / 2 <= held < weights * 0.52
        assert 2 * held <= report.metrics["optimiser_bytes"] < 2.1 * held, "AdamW keeps two"


def test_what_was_wrapped_is_recorded(reports: list[RankReport]) -> None:
    details = reports[0].details
    assert details["wrapped"] == ["blocks.0", "blocks.1", "blocks.2", "(root)"]
    assert details["reshard_after_forward"] == "auto"


def test_ranks_hold_the_same_model(reports: list[RankReport]) -> None:
    assert reports[0].fingerprint == reports[1].fingerprint != ""
    assert {report.samples_per_update for report in reports} == {2 * 4 * 128}
