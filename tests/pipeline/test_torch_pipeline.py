"""torch's schedules as frameworks: proven, measured and described; planted faults do not pass the
proof."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.planner.synchronous import RULES
from pytest_dnnbench.results.records.measurement import Launch, check_times
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import PLAIN, StepForm
from tests.patience import HANG_S
from tests.pipeline.models import Residual
from tests.pipeline.token_workloads import Language

MODELS = "tests.pipeline.models"
RESIDUAL, TRANSFORMER = f"{MODELS}:residual", f"{MODELS}:transformer"
TOKENS = "tests.pipeline.token_workloads"
WORKER = "pytest_dnnbench.rank.frameworks.torch_pipeline:TorchPipelineWorker"
PLANNING = "pytest_dnnbench.rank.pipeline.planning:decide_synchronous"
TRAINED = ["gradients in float32", "loss in float32", "parameters", "buffers", "loss"]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where profiles are kept, not in the user's cache."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture
def launch(server: ForkServer, profiles: Path) -> Any:
    """Plans and launches a case of two steps, or its proof."""

    def launched(
        what: str,
        framework: str,
        gpus: int,
        model: str = RESIDUAL,
        worker: str = WORKER,
        phase: str = "train",
        form: StepForm = PLAIN,
        **options: int | str | float | bool,
    ) -> list[Any]:
        case = Case(framework, model, gpus, phase, batch_size=4, options=options, form=form)
        kept = {"XDG_CACHE_HOME": str(profiles)}
        ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S, environment=kept)
        request = RunRequest(case, worker, Catalog().model(model), steps=3, warmup=2)
        decision = ranks.launch(PLANNING, request)[0]
        results: list[Any] = ranks.launch(what, replace(request, plan=decision))
        return results

    return launched


@pytest.fixture
def prove(launch: Any) -> Any:
    """The evidence of a case's proof. Raises WrongResult."""

    def proven(framework: str, gpus: int, **settings: Any) -> CorrectnessEntry:
        case = Case(framework, RESIDUAL, gpus, "train")
        return agree(case, launch(PROVE, framework, gpus, **settings))

    return proven


@pytest.mark.parametrize("framework", [name for name in RULES if name != "mp"])
def test_four_ranks_compute_what_one_process_computes(prove: Any, framework: str) -> None:
    evidence = prove(framework, 4, model=TRANSFORMER)
    assert evidence.checked == TRAINED


@pytest.mark.parametrize(
    ("framework", "gpus", "stages"),
    [("1f1b", 2, 2), ("zero-bubble", 4, 4), ("zbv", 2, 2), ("interleaved", 4, 2)],
)
def test_a_workload_of_tokens_with_tied_weights_and_clipping_is_proven(
    prove: Any, framework: str, gpus: int, stages: int
) -> None:
    """Its own AdamW and scheduler per stage, embedding and head in different stages."""
    evidence = prove(framework, gpus, model=f"{TOKENS}:Tied", stages=stages)
    assert evidence.checked == [*TRAINED, "updates"]


def test_experts_whose_tokens_no_message_could_hold_are_never_cut_off(prove: Any) -> None:
    """Cut between router and expert, torch's messages of one size ended in "Failed to run stage
    backward"."""
    evidence = prove("1f1b", 2, model=f"{TOKENS}:Routed")
    assert evidence.checked == [*TRAINED, "updates"]


def test_our_gpt_is_proven_over_several_stages_per_rank(prove: Any) -> None:
    """With dropout, AdamW, clipping, and a head that has the embedding's weights."""
    assert prove("zero-bubble", 2, model="gpt-nano").checked == [*TRAINED, "updates"]


def test_tokens_are_counted_and_validated(launch: Any, prove: Any) -> None:
    reports: list[RankReport] = launch(MEASURE, "1f1b", 2, model=f"{TOKENS}:Tied")
    assert [report.step_samples for report in reports] == [(0,) * 3, (2 * 4 * 6,) * 3]
    assert {(report.sample, report.samples_per_update) for report in reports} == {("tok", 48)}
    evidence = prove("gpipe", 2, model=f"{TOKENS}:Tied", phase="validate")
    assert evidence.checked == ["validation in float32", "validation"]


@pytest.mark.parametrize(
    ("fault", "model", "message"),
    [
        ("TiesApart", "Tied", "gradients in float32 of stage 0"),
        ("ClippedByThemselves", "Clipped", "gradients in float32 of stage"),
        ("SteppedTwice", "Tokens", "parameters of stage"),
    ],
)
def test_a_fault_in_what_stages_share_is_caught(
    prove: Any, fault: str, model: str, message: str
) -> None:
    worker = f"tests.pipeline.faulty_torch_workers:{fault}"
    with pytest.raises(WrongResult, match=message):
        prove("gpipe", 2, model=f"{TOKENS}:{model}", worker=worker)


def test_an_optimiser_that_looks_at_all_weights_fails_its_proof(prove: Any) -> None:
    with pytest.raises(WrongResult, match="updates of stage"):
        prove("gpipe", 2, model=f"{TOKENS}:NotLocal")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tests.own_workloads:NoModel", "NoModel.model returned a NoneType: return a torch.nn"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(
    launch: Any, model: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        launch(PROVE, "gpipe", 2, model=model)


def test_a_validation_is_proven_as_well(prove: Any) -> None:
    for framework in ("gpipe", "zbv"):
        evidence = prove(framework, 2, phase="validate")
        assert evidence.checked == ["validation in float32", "validation"]


@pytest.mark.parametrize(
    ("fault", "gpus", "message"),
    [
        ("GradientsSummed", 2, "gradients in float32 of stage 0"),
        ("ReplicasApart", 4, "gradients in float32 of stage"),
        ("OneForwardTooMany", 2, "buffers of stage"),
        ("LastMicrobatchLost", 2, "gradients in float32 of stage"),
    ],
)
def test_a_planted_fault_is_caught(prove: Any, fault: str, gpus: int, message: str) -> None:
    worker = f"tests.pipeline.faulty_torch_workers:{fault}"
    with pytest.raises(WrongResult, match=message):
        prove("1f1b", gpus, stages=2, worker=worker)


def test_a_measured_case_counts_each_image_once_and_tells_its_schedule(launch: Any) -> None:
    reports: list[RankReport] = launch(MEASURE, "interleaved", 4, stages=2, microbatches=8)
    assert [report.step_samples for report in reports] == [(0,) * 3] * 2 + [(16,) * 3] * 2
    assert [len(report.loss) for report in reports] == [0, 0, 5, 5]
    assert {report.samples_per_update for report in reports} == {8 * 4}
    check_times(Case("interleaved", RESIDUAL, 4, "train"), Launch(tuple(reports)))
    assert Launch(tuple(reports)).throughput > 0
    for report in reports:
        assert 0 < report.metrics["bubble_fraction_ideal"] < 1
        assert 0 < report.metrics["bubble_fraction"] < 1
        assert report.pipeline is not None
        assert report.pipeline.shape == "2-2 x2"
        assert report.pipeline.decision.plan.replicas == (2, 2, 2, 2)
        assert report.pipeline.predicted_step_time_s > 0
        assert (report.pipeline.decision.runtime_s or 0.0) > 0
        assert report.pipeline.version_bytes > 0
        assert report.details["schedule"] == "ScheduleInterleaved1F1B"
        assert report.details["replicas_hold"] == "copies"
    held = sum(report.metrics["parameter_bytes"] for report in reports)
    assert held == 2 * 4 * sum(each.numel() for each in Residual().parameters())
    assert [report.details["stages"] for report in reports] == [[0, 2], [0, 2], [1, 3], [1, 3]]


def test_the_last_stages_of_a_v_are_on_the_first_rank(launch: Any) -> None:
    for phase in ("train", "validate"):
        reports: list[RankReport] = launch(MEASURE, "zbv", 2, phase=phase)
        assert [report.details["stages"] for report in reports] == [[0, 3], [1, 2]]
        assert [report.step_samples for report in reports] == [(8,) * 3, (0,) * 3]
        assert ("bubble_fraction" in reports[0].metrics) == (phase == "train")


@pytest.mark.parametrize(
    ("framework", "model"),
    [
        ("gpipe", f"{MODELS}:PassesItsImages"),
        ("zbv", f"{MODELS}:PassesItsImages"),
        ("zero-bubble", f"{TOKENS}:late_tokens"),
    ],
)
def test_what_has_no_gradient_crosses_cuts_as_well(prove: Any, framework: str, model: str) -> None:
    """Images, and tokens, which are whole numbers."""
    assert set(prove(framework, 2, model=model).checked) >= set(TRAINED)


@pytest.mark.parametrize(
    ("framework", "model"),
    [
        ("gpipe", RESIDUAL),
        ("1f1b", f"{TOKENS}:Tied"),
        ("interleaved", "gpt-nano"),
        ("bfs", RESIDUAL),
        ("zero-bubble", TRANSFORMER),
        ("zbv", RESIDUAL),
        ("dualpipev", TRANSFORMER),
    ],
)
def test_replicas_that_share_their_weights_out_compute_what_one_process_computes(
    prove: Any, framework: str, model: str
) -> None:
    """On two stages, or more, of two replicas: the wholes of the parts, in float64. Two of them
    update by a fused optimiser, SGD and AdamW."""
    form = StepForm(fused=framework in ("bfs", "interleaved"))
    evidence = prove(framework, 4, model=model, form=form, stages=2, replicas="fsdp")
    own = ["updates"] if model in ("gpt-nano", f"{TOKENS}:Tied") else []
    assert evidence.checked == [*TRAINED, *own]


def test_a_replica_whose_parts_are_not_averaged_is_caught(prove: Any) -> None:
    worker = "tests.pipeline.faulty_torch_workers:PartsOfOneReplica"
    with pytest.raises(WrongResult, match="gradients in float32 of stage"):
        prove("1f1b", 4, stages=2, replicas="fsdp", worker=worker)


def test_a_validation_with_shared_weights_is_proven(prove: Any) -> None:
    evidence = prove("interleaved", 4, phase="validate", stages=2, replicas="fsdp")
    assert evidence.checked == ["validation in float32", "validation"]


@pytest.mark.parametrize(
    ("framework", "phase"), [("1f1b", "train"), ("interleaved", "train"), ("1f1b", "validate")]
)
def test_replicas_that_share_weights_out_hold_them_once_between_steps(
    launch: Any, framework: str, phase: str
) -> None:
    """Of AdamW's state too: two elements for one of a weight, and a count for each weight."""
    reports: list[RankReport] = launch(
        MEASURE, framework, 4, model=f"{TOKENS}:Tokens", phase=phase, stages=2, replicas="fsdp"
    )
    weights = list(Language().parameters())
    elements = sum(each.numel() for each in weights)
    held = [report.metrics["parameter_bytes"] for report in reports]
    assert sum(held) == 4 * elements, "copies would be twice as much"
    for pair in (held[:2], held[2:]):
        assert max(pair) <= 0.6 * sum(pair), "in parts of nearly equal size"
    states = sum(report.metrics["optimiser_bytes"] for report in reports)
    assert states == (2 * 4 * elements + 2 * 4 * len(weights) if phase == "train" else 0)
    assert {report.details["replicas_hold"] for report in reports} == {"parts"}
