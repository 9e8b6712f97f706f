"""The timed window: every rank opens it once, whatever share of the warm-up is its own."""

import time
from dataclasses import replace

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, RankReport, RunRequest
from pytest_dnnbench.rank import timed_run
from tests.patience import HANG_S
from tests.rank.turn_taking import TakesTurns


@pytest.mark.parametrize(
    ("warmup", "run_on"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (3, 3), (4, 5)]
)
def test_ranks_that_take_turns_time_their_steps_and_no_others(
    server: ForkServer, warmup: int, run_on: int
) -> None:
    request = RunRequest(
        Case("turns", "m", 3, "train", options={"run_on": run_on}),
        "tests.rank.turn_taking:TakesTurns",
        "m",
        steps=6,
        warmup=warmup,
    )
    begin_s = time.monotonic()
    reports = Ranks(server, ["cpu"] * 3, threads=1, timeout_s=HANG_S).launch(MEASURE, request)
    assert sorted(index for report in reports for index in report.step_index) == list(range(6))
    for report in reports:
        assert begin_s < report.window_start_s < report.step_end_s[0]
        assert list(report.step_end_s) == sorted(report.step_end_s)
        assert report.warmup_steps == -(-warmup // 3) * 3, "whole turns of the three ranks"
        began_s = report.details["began_s"]
        assert isinstance(began_s, list)
        after = min(begin for begin in began_s if begin >= report.step_end_s[-1])
        assert report.step_end_s[-1] <= report.window_end_s <= after, (
            "no part of a further step is timed"
        )
        assert len(report.step_end_s) == len(report.step_index) == 2


def lengths(
    server: ForkServer, ranks: int, warmup: int | str, steps: int | str
) -> list[RankReport]:
    """A launch of ranks that take turns at steps of a millisecond."""
    case = Case("turns", "m", ranks, "train", options={"run_on": 2})
    request = RunRequest(case, "tests.rank.turn_taking:TakesTurns", "m", steps=steps, warmup=warmup)
    reports: list[RankReport] = Ranks(server, ["cpu"] * ranks, threads=1, timeout_s=HANG_S).launch(
        MEASURE, request
    )
    return reports


@pytest.mark.parametrize(
    ("warmup", "steps"), [("auto", 6), ("0.2s", 6), ("auto", "0.3s"), (3, "0.3s")]
)
def test_all_ranks_agree_on_what_a_length_comes_to(
    server: ForkServer, warmup: int | str, steps: int | str
) -> None:
    reports = lengths(server, 3, warmup, steps)
    indices = sorted(index for report in reports for index in report.step_index)
    assert indices == list(range(len(indices))), "every step is timed once"
    assert len(indices) % 3 == 0
    assert len({report.warmup_steps for report in reports}) == 1
    assert len({report.steady for report in reports}) == 1
    for report in reports:
        assert report.steady is not None or warmup != "auto"
        assert report.warmup_steps >= 3
        if warmup == "0.2s":
            assert report.warmup_s >= 0.2
    if steps == 6:
        assert len(indices) == 6


def test_a_given_number_of_warm_up_steps_is_not_judged(server: ForkServer) -> None:
    (report,) = lengths(server, 1, 2, 4)
    assert (report.warmup_steps, report.steady, len(report.step_index)) == (2, None, 4)
    assert report.warmup_s > 0


def test_losses_go_on_from_run_to_run(server: ForkServer) -> None:
    """A warm-up in runs of its own trains on: the steps are those of one long run."""
    case = Case("ddp", "tests.tiny_models:tiny", 2, "train", batch_size=4)
    worker = "pytest_dnnbench.rank.frameworks.ddp:DdpWorker"
    request = RunRequest(case, worker, case.model, steps=4, warmup="auto")
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    in_stretches = ranks.launch(MEASURE, request)
    steps = in_stretches[0].warmup_steps
    in_one_run = ranks.launch(MEASURE, replace(request, warmup=steps))
    for stretched, plain in zip(in_stretches, in_one_run, strict=True):
        assert stretched.loss == plain.loss
        assert len(plain.loss) == steps + 4


def test_a_frameworks_figures_are_those_of_the_timed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The final validation is a run as well: a pipeline's bubble was that of both."""
    asked: list[str] = []
    worker = TakesTurns(
        Place(0, 1, "cpu", 1, "", 60.0),
        RunRequest(Case("turns", "m", 1, "train"), "", "m", steps=2, warmup=1),
    )

    def metrics(self: TakesTurns) -> dict[str, float]:
        asked.append("metrics")
        return {}

    monkeypatch.setattr(TakesTurns, "metrics", metrics)
    monkeypatch.setattr(TakesTurns, "validation", lambda self: asked.append("validation"))
    monkeypatch.setattr(timed_run, "_worker", lambda place, request: worker)
    timed_run.measure(worker.place, worker.request)
    assert asked == ["metrics", "validation"]
    assert worker.timed == range(1, 3)


@pytest.mark.parametrize("framework", ["single", "ddp"])
def test_what_torch_imports_late_has_been_imported_before_the_rank(
    server: ForkServer, framework: str
) -> None:
    case = Case(framework, "tiny", 1, "train")
    worker = f"pytest_dnnbench.rank.frameworks.{framework}:{framework.title()}Worker"
    request = RunRequest(case, worker, "tests.tiny_models:tiny", steps=2, warmup=1)
    (late,) = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S).launch(
        "tests.rank.programs:late_imports", request
    )
    assert late == []
