"""`pipedream` as a framework: proven, measured and described; planted faults do not pass the
proof."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import PlanError, UsageError, WrongResult
from pytest_dnnbench.messages import PipelineFacts, PlanDecision, RankReport, RunRequest
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.plan_seconds import (
    averages_s,
    flushed_s,
    messages_s,
    minibatch_s,
)
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.profiling.profiler import Effort, profile_model
from pytest_dnnbench.results.records.measurement import Launch, check_times
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.patience import HANG_S

MODELS = "tests.pipeline.models"
RESIDUAL = f"{MODELS}:residual"
WORKER = "pytest_dnnbench.rank.frameworks.pipedream:PipeDreamWorker"
TRAINED = ["gradients in float32", "loss in float32", "parameters", "buffers", "loss"]
PLANNING = "pytest_dnnbench.rank.pipeline.planning:decide"


@pytest.fixture(autouse=True)
def _profiles_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    """Profiles are kept in the test's folder, not in the user's cache."""
    PROFILES["XDG_CACHE_HOME"] = str(tmp_path)


PROFILES: dict[str, str] = {}


def launch(
    server: ForkServer,
    what: str,
    gpus: int,
    *,
    worker: str = WORKER,
    framework: str = "pipedream",
    phase: str = "train",
    model: str = RESIDUAL,
    lengths: tuple[int | str, int | str] = (4, 6),
    **options: str | int | float | bool,
) -> list[RankReport]:
    case = Case(framework, model, gpus, phase, batch_size=4, options=options)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S, environment=PROFILES)
    request = RunRequest(case, worker, Catalog().model(model), steps=lengths[1], warmup=lengths[0])
    decision: PlanDecision = ranks.launch(PLANNING, request)[0]
    results: list[RankReport] = ranks.launch(what, replace(request, plan=decision))
    return results


def facts(report: RankReport) -> PipelineFacts:
    assert report.pipeline is not None
    return report.pipeline


def prove(server: ForkServer, gpus: int, **settings: str | int | float | bool) -> CorrectnessEntry:
    results = launch(server, PROVE, gpus, **settings)  # type: ignore[arg-type] # options of one signature
    return agree(Case("pipedream", RESIDUAL, gpus, "train"), results)  # type: ignore[arg-type] # a proof's results


@pytest.mark.parametrize("stages", ["1", "2", "2-1", "1-3-1"])
def test_the_proof_passes(server: ForkServer, stages: str) -> None:
    gpus = sum(map(int, stages.split("-"))) if "-" in stages else 2
    evidence = prove(server, gpus, stages=stages)
    assert evidence.checked == TRAINED
    assert evidence.about["rows of a minibatch"] == 16


def test_a_model_without_batch_normalisation_is_proven_on_few_images(server: ForkServer) -> None:
    evidence = prove(server, 2, stages="2", model=f"{MODELS}:lopsided")
    assert evidence.about["rows of a minibatch"] == 4


@pytest.mark.parametrize("framework", ["pipedream-2bw", "pipedream-flush"])
def test_the_proof_passes_for_the_variants(server: ForkServer, framework: str) -> None:
    assert (
        prove(server, 3, stages="3", framework=framework, microbatches=4).about["dtype"]
        == "float64"
    )


def test_the_proof_passes_with_vertical_sync_and_for_validation(server: ForkServer) -> None:
    assert prove(server, 3, stages="3", vertical_sync=True).about["minibatches"] == 8
    assert prove(server, 3, stages="2-1", phase="validate").checked == [
        "validation in float32",
        "validation",
    ]


@pytest.mark.parametrize(
    ("framework", "model", "stages", "gpus"),
    [
        ("pipedream", "Tokens", "2-1", 3),
        ("pipedream-2bw", "Tokens", "2", 2),
        ("pipedream-flush", "Clipped", "2-1", 3),
    ],
)
def test_a_workload_of_tokens_is_proven_with_its_own_optimiser(
    server: ForkServer, framework: str, model: str, stages: str, gpus: int
) -> None:
    workload = f"tests.pipeline.token_workloads:{model}"
    evidence = prove(server, gpus, framework=framework, model=workload, stages=stages)
    assert evidence.checked == [*TRAINED, "updates"]


@pytest.mark.parametrize(
    ("model", "gpus", "message"),
    [
        (
            "Clipped",
            2,
            r"limits the norm of all gradients .*, but stages of pipedream step at diff",
        ),
        ("TiedUnclipped", 4, r"share a weight or a value and stay together\): ask for fewer"),
    ],
)
def test_what_stages_that_update_at_different_times_cannot_do_is_refused(
    server: ForkServer, model: str, gpus: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prove(server, gpus, model=f"tests.pipeline.token_workloads:{model}", stages=str(gpus))


def test_validation_of_a_workload_that_clips_is_proven(server: ForkServer) -> None:
    """No stage updates, so that none does at another time."""
    model = "tests.pipeline.token_workloads:Clipped"
    assert prove(server, 2, model=model, stages="2", phase="validate").checked == [
        "validation in float32",
        "validation",
    ]


def test_a_real_model_with_dropout_and_stochastic_depth_passes(server: ForkServer) -> None:
    assert prove(server, 2, stages="2", model="efficientnet_b0").checked == TRAINED


@pytest.mark.parametrize(
    ("fault", "stages", "gpus"),
    [
        ("NoAllReduce", "2-1", 3),
        ("NoStash", "1-1", 2),
        ("MisplacedUpdate", "1-1", 2),
        ("StaleAfterDrain", "1-1", 2),
    ],
)
def test_a_planted_fault_is_caught(server: ForkServer, fault: str, stages: str, gpus: int) -> None:
    variant = "pipedream-2bw" if fault == "NoStash" else "pipedream"
    with pytest.raises(WrongResult, match="parameters of stage"):
        prove(
            server,
            gpus,
            stages=stages,
            worker=f"tests.pipeline.faulty_workers:{fault}",
            framework=variant,
        )


def test_a_measured_case_counts_each_image_once_and_tells_its_plan(server: ForkServer) -> None:
    reports = launch(server, MEASURE, 3, stages="2-1")
    assert [sum(report.step_samples) for report in reports] == [0, 0, 6 * 4]
    assert [report.step_index for report in reports] == [(0, 2, 4), (1, 3, 5), (0, 1, 2, 3, 4, 5)]
    assert [len(report.loss) for report in reports] == [0, 0, 10]
    assert Launch(tuple(reports)).throughput > 0
    for report in reports:
        assert report.sample == "img"
        assert report.metrics["resident_peak_bytes"] > facts(report).version_bytes
        assert (facts(report).shape, facts(report).parallelism) == ("2-1", "pipeline")
        assert facts(report).decision.decided_by == "user"
        assert facts(report).decision.plan.replicas == (2, 1)
        assert 0 <= report.metrics["bubble_fraction"] < 1
        assert report.metrics["bubble_fraction_ideal"] == 0
    places = [(facts(report).stage, facts(report).replica) for report in reports]
    assert places == [(0, 0), (0, 1), (1, 0)]
    assert [facts(report).versions_kept for report in reports] == [2, 2, 1]
    assert facts(reports[0]).stash_bytes == facts(reports[0]).version_bytes > 0
    assert facts(reports[2]).stash_bytes == 0


@pytest.mark.parametrize(
    ("framework", "ideal"), [("pipedream-2bw", 0.0), ("pipedream-flush", 1 / 5)]
)
def test_a_step_of_the_variants_is_one_update(
    server: ForkServer, framework: str, ideal: float
) -> None:
    first, last = launch(server, MEASURE, 2, stages="2", framework=framework, microbatches=4)
    assert first.step_index == last.step_index == tuple(range(6))
    assert last.step_samples == (4 * 4,) * 6
    assert last.samples_per_update == 4 * 4
    assert len(last.loss) == 10
    assert first.metrics["bubble_fraction_ideal"] == pytest.approx(ideal)
    assert facts(first).versions_kept == (2 if framework == "pipedream-2bw" else 1)
    plan, bandwidth = facts(first).decision.plan, facts(first).decision.bandwidth_bytes_s
    assert bandwidth is not None
    assert min(plan.update_s, plan.add_s, *(stage.forward_s or 0.0 for stage in plan.stages)) > 0
    schedule = Schedule(framework, Layout((1, 1)), 4)
    averages, messages = averages_s(plan, bandwidth), messages_s(plan, bandwidth)
    if framework == "pipedream-flush":
        expected = flushed_s(plan, schedule, averages, messages)
    else:
        expected = 4 * minibatch_s(plan, schedule, averages, messages, overlaps=False)
    assert facts(first).predicted_step_time_s == pytest.approx(expected)


def test_auto_lets_the_planner_decide_and_says_what_it_decided(server: ForkServer) -> None:
    reports = launch(server, MEASURE, 2, stages="auto", bandwidth=1e15)
    for report in reports:
        assert facts(report).decision.decided_by == "planner"
        assert facts(report).decision.bandwidth_bytes_s == 1e15
        data_parallel = facts(report).shape == "2"
        assert facts(report).parallelism == ("data" if data_parallel else "pipeline")
    assert sum(sum(report.step_samples) for report in reports) == 6 * 4


def test_a_decision_from_a_journal_is_run_as_well(server: ForkServer) -> None:
    case = Case("pipedream", RESIDUAL, 2, "train", batch_size=4, options={"stages": "2"})
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S, environment=PROFILES)
    request = RunRequest(case, WORKER, RESIDUAL, steps=2, warmup=1)
    decision = ranks.launch(PLANNING, request)[0]
    plain = msgspec.json.decode(msgspec.json.encode(decision))
    reports = ranks.launch(MEASURE, replace(request, plan=plain))
    assert [facts(report).decision for report in reports] == [decision] * 2


def test_validation_is_pipelined_and_in_evaluation_mode(server: ForkServer) -> None:
    reports = launch(server, MEASURE, 2, stages="2", phase="validate")
    assert [sum(report.step_samples) for report in reports] == [0, 6 * 4]


@pytest.mark.parametrize(
    ("gpus", "stages", "phase"), [(2, "2", "train"), (3, "2-1", "train"), (3, "1-2", "validate")]
)
def test_a_pipeline_warms_up_in_runs_that_drain_and_is_timed_in_one(
    server: ForkServer, gpus: int, stages: str, phase: str
) -> None:
    reports = launch(server, MEASURE, gpus, stages=stages, phase=phase, lengths=("auto", 6))
    made = Launch(tuple(reports))
    check_times(Case("pipedream", RESIDUAL, gpus, phase), made)
    timed = sorted(index for report in reports for index in report.step_index if report.loss)
    assert timed == list(range(6))
    assert len({report.warmup_steps for report in reports}) == 1
    assert sum(len(report.loss) for report in reports) == reports[0].warmup_steps + 6
    last_stage = [report for report in reports if report.loss]
    window_s = max(r.step_end_s[-1] for r in last_stage) - max(r.window_start_s for r in last_stage)
    if phase == "train":
        assert made.throughput == pytest.approx(6 * 4 / window_s, rel=1e-3)
        assert all(0 <= report.metrics["bubble_fraction"] < 1 for report in reports)


def test_a_plan_from_a_file_is_run_as_it_stands(server: ForkServer, tmp_path: Path) -> None:
    profile = profile_model(RESIDUAL, 28, 4, "fp32", "cpu", effort=Effort(warmup=0, repetitions=1))
    plan = even_plan(profile, (1, 2))
    (tmp_path / "plan.json").write_text(plan.to_json())
    reports = launch(server, MEASURE, 3, plan=str(tmp_path / "plan.json"))
    assert facts(reports[0]).decision == PlanDecision(plan, "user")
    with pytest.raises(PlanError, match="takes 3 ranks, not 2"):
        launch(server, MEASURE, 2, plan=str(tmp_path / "plan.json"))
    with pytest.raises(
        PlanError, match="the plan is of another model or version, profile and plan again"
    ):
        launch(server, MEASURE, 3, plan=str(tmp_path / "plan.json"), model=f"{MODELS}:two_layers")


@pytest.mark.parametrize(
    ("model", "stages", "gpus", "error", "message"),
    [
        (RESIDUAL, "3", 2, PlanError, "2 ranks do not divide into 3 stages"),
        (RESIDUAL, "2-1", 2, PlanError, "stages 2-1 take 3 ranks, not 2"),
        (RESIDUAL, "x", 2, PlanError, "stages 'x': write a number"),
        (f"{MODELS}:two_layers", "4", 4, PlanError, "ask for fewer"),
        (
            f"{MODELS}:Branching",
            "2",
            2,
            UsageError,
            r"models.py:\d+ `if .*mark the block as a leaf",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(
    server: ForkServer, model: str, stages: str, gpus: int, error: type[UsageError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        launch(server, MEASURE, gpus, stages=stages, model=model)
    assert "\n" not in str(caught.value)
