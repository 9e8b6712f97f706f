"""`pipedream` as a framework: proven, measured and described; planted faults do not pass the proof."""

from pathlib import Path

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.run import MEASURE, PROVE
from pytest_dnnbench.errors import PlanError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.results.measurement import Launch, agree

RESIDUAL = "tests.pipeline.models:residual"
WORKER = "pytest_dnnbench.rank.frameworks.pipedream:PipeDreamWorker"


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
    **options: str | int | float | bool,
) -> list[RankReport]:
    case = Case(framework, model, gpus, phase, batch_size=4, options=options)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=120, environment=PROFILES)
    request = RunRequest(case, worker, model, steps=6, warmup=4)
    results: list[RankReport] = ranks.launch(what, request)
    return results


def prove(server: ForkServer, gpus: int, **settings: str | int | float | bool) -> dict[str, object]:
    results = launch(server, PROVE, gpus, **settings)  # type: ignore[arg-type] # options of one signature
    return agree(Case("pipedream", RESIDUAL, gpus, "train"), results)  # type: ignore[arg-type] # a proof's results


@pytest.mark.parametrize("stages", ["1", "2", "2-1", "1-3-1"])
def test_the_proof_passes(server: ForkServer, stages: str) -> None:
    gpus = sum(map(int, stages.split("-"))) if "-" in stages else 2
    evidence = prove(server, gpus, stages=stages)
    assert evidence["checked"] == ["parameters", "buffers", "loss"]


@pytest.mark.parametrize("framework", ["pipedream-2bw", "pipedream-flush"])
def test_the_proof_passes_for_the_variants(server: ForkServer, framework: str) -> None:
    assert prove(server, 3, stages="3", framework=framework, microbatches=4)["dtype"] == "float64"


def test_the_proof_passes_with_vertical_sync_and_for_validation(server: ForkServer) -> None:
    assert prove(server, 3, stages="3", vertical_sync=True)["minibatches"] == 9
    assert prove(server, 3, stages="2-1", phase="validate")["checked"] == ["validation"]


def test_a_real_model_with_dropout_and_stochastic_depth_passes(server: ForkServer) -> None:
    assert prove(server, 2, stages="2", model="efficientnet_b0")["checked"] == ["parameters", "buffers", "loss"]


@pytest.mark.parametrize(
    ("fault", "stages", "gpus"),
    [("NoAllReduce", "2-1", 3), ("NoStash", "1-1", 2), ("MisplacedUpdate", "1-1", 2), ("StaleAfterDrain", "1-1", 2)],
)
def test_a_planted_fault_is_caught(server: ForkServer, fault: str, stages: str, gpus: int) -> None:
    variant = "pipedream-2bw" if fault == "NoStash" else "pipedream"
    with pytest.raises(WrongResult, match="parameters of stage"):
        prove(server, gpus, stages=stages, worker=f"tests.pipeline.faulty_workers:{fault}", framework=variant)


def test_a_measured_case_counts_each_image_once_and_tells_its_plan(server: ForkServer) -> None:
    reports = launch(server, MEASURE, 3, stages="2-1")
    assert [sum(report.step_images) for report in reports] == [0, 0, 6 * 4]
    assert [report.step_index for report in reports] == [(0, 2, 4), (1, 3, 5), (0, 1, 2, 3, 4, 5)]
    assert Launch(tuple(reports)).throughput_img_s > 0
    for report in reports:
        assert report.details["replicas"] == [2, 1]
        assert report.details["parallelism"] == "pipeline"
        assert report.details["decided_by"] == "user"
        bubble = report.details["bubble_fraction"]
        assert isinstance(bubble, float)
        assert 0 <= bubble < 1
    assert [report.details["versions_kept"] for report in reports] == [2, 2, 1]
    assert reports[0].details["stash_bytes"] == reports[0].details["version_bytes"]
    assert reports[2].details["stash_bytes"] == 0


def test_auto_lets_the_planner_decide_and_says_what_it_decided(server: ForkServer) -> None:
    reports = launch(server, MEASURE, 2, stages="auto", bandwidth=1e15)
    for report in reports:
        assert report.details["decided_by"] == "planner"
        data_parallel = report.details["replicas"] == [2]
        assert report.details["parallelism"] == ("data" if data_parallel else "pipeline")
    assert sum(sum(report.step_images) for report in reports) == 6 * 4


def test_validation_is_pipelined_and_in_evaluation_mode(server: ForkServer) -> None:
    reports = launch(server, MEASURE, 2, stages="2", phase="validate")
    assert [sum(report.step_images) for report in reports] == [0, 6 * 4]


@pytest.mark.parametrize(
    ("stages", "gpus", "message"),
    [("3", 2, "do not divide into 3 stages"), ("2-1", 2, "take 3 ranks, not 2"), ("x", 2, "write a number")],
)
def test_stages_that_do_not_fit_the_ranks_are_refused(server: ForkServer, stages: str, gpus: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        launch(server, MEASURE, gpus, stages=stages)


def test_more_stages_than_the_model_has_cut_points_are_refused(server: ForkServer) -> None:
    with pytest.raises(PlanError, match="ask for fewer"):
        launch(server, MEASURE, 4, stages="4", model="tests.pipeline.models:two_layers")
