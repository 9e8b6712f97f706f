"""A rank reports its phase and step; its failure names the phase, in whatever way it fails."""

import time
from collections.abc import Sequence

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE, RankLauncher
from pytest_dnnbench.controller.ranks import PROGRESS_S, Ranks
from pytest_dnnbench.errors import RankCrashed, RankFailure, RankRaised
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank_status import RANK_PHASES, RankStatus, StatusPage
from tests.patience import HANG_S, failure_at_hang
from tests.rank import programs


def request(phase: str, how: str, steps: int = 4) -> RunRequest:
    case = Case("fails", "m", 2, "train", options={"phase": phase, "how": how})
    return RunRequest(case, "tests.rank.failing_worker:FailsIn", "m", steps=steps, warmup=2)


LATER = ("timed steps", "report", "teardown", "end")
"""Phases from the opening of the window on."""


class KeepingDisplay:
    """A display that keeps all that it has to show."""

    def __init__(self) -> None:
        self.shown: list[list[RankStatus]] = []
        self.cleared = 0

    def show(self, standings: Sequence[RankStatus]) -> None:
        self.shown.append(list(standings))

    def clear(self) -> None:
        self.cleared += 1


def test_both_sides_of_a_status_page_see_phase_steps_and_samples() -> None:
    ours, descriptor = StatusPage.make()
    theirs = StatusPage(descriptor)
    assert ours.look() == RankStatus("start")
    theirs.enter("timed steps", 10)
    time.sleep(0.01)
    theirs.step(3, 96)
    standing = ours.look()
    assert (standing.phase, standing.done, standing.steps, standing.samples) == (
        "timed steps",
        3,
        10,
        96,
    )
    assert 0.01 <= standing.elapsed_s < HANG_S
    assert standing.describe() == "during the timed steps (3 of 10 done)"
    theirs.enter("report")
    assert ours.look() == RankStatus("report")


def test_an_unknown_phase_is_refused() -> None:
    board, _ = StatusPage.make()
    with pytest.raises(ValueError, match="tuple"):
        board.enter("lunch")


def test_a_report_outside_a_rank_does_nothing() -> None:
    rank_phase.enter("build")
    rank_phase.step(1, 2)


@pytest.mark.parametrize(
    "phase", ["group", "build", "warm-up", "timed steps", "report", "teardown"]
)
def test_an_exception_is_reported_with_its_phase(server: ForkServer, phase: str) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    with pytest.raises(
        RankRaised, match=f"rank 1 of 2 raised ValueError {RANK_PHASES[phase]}.*: planted"
    ) as caught:
        ranks.launch(MEASURE, request(phase, "raise"))
    assert caught.value.rank_phase == phase


def test_an_exception_in_the_proof_says_so(two_ranks: Ranks) -> None:
    with pytest.raises(RankRaised, match="raised ValueError in the proof: planted"):
        two_ranks.launch(PROVE, request("proof", "raise"))


def test_a_module_that_does_not_import_says_so(two_ranks: Ranks) -> None:
    with pytest.raises(RankRaised, match="raised ModuleNotFoundError in import: ") as caught:
        two_ranks.launch("no_such_module:function")
    assert caught.value.rank_phase == "import"


def test_a_death_is_reported_with_its_step(two_ranks: Ranks) -> None:
    expected = (
        r"rank 1 of 2 died of SIGKILL during the timed steps \(2 of 4 done\): killed from outside"
    )
    with pytest.raises(RankCrashed, match=expected) as caught:
        two_ranks.launch(MEASURE, request("timed steps", "die"))
    assert caught.value.rank_phase == "timed steps"


def test_a_hang_is_reported_with_the_phase_of_each_rank(two_ranks: Ranks) -> None:
    hung = failure_at_hang(
        two_ranks,
        lambda: two_ranks.launch(MEASURE, request("build", "hang")),
        lambda hung: hung.rank_phase == "build",
    )
    assert "rank 1 in build:" in str(hung)


def test_a_function_given_to_run_has_a_phase_of_its_own(two_ranks: Ranks) -> None:
    with pytest.raises(RankFailure) as caught:
        two_ranks.run(programs.raise_on, 1)
    assert caught.value.rank_phase == "program"


def test_a_display_is_shown_the_ranks_while_they_run_and_cleared_once(
    server: ForkServer,
) -> None:
    display = KeepingDisplay()
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S, progress=display)

    def launch() -> None:
        display.shown, display.cleared = [], 0
        ranks.launch(MEASURE, request("warm-up", "hang"))

    def last_shown() -> list[tuple[str, int]]:
        return [(standing.phase, standing.done) for standing in display.shown[-1]]

    at_the_hang = [("teardown", 0), ("warm-up", 1)]
    failure_at_hang(ranks, launch, lambda hung: last_shown() == at_the_hang)
    assert display.shown[0] == []
    assert last_shown() == at_the_hang
    assert len(display.shown) <= 2 + ranks.timeout_s / PROGRESS_S
    assert display.cleared == 1


def test_a_report_says_how_long_each_phase_took(server: ForkServer) -> None:
    """All phases in their order, without a gap: together they are the life of the rank."""
    case = Case("single", "tests.tiny_models:tiny", 1, "train", batch_size=4)
    worker = "pytest_dnnbench.rank.frameworks.single:SingleWorker"
    asked = RunRequest(case, worker, case.model, steps=2, warmup=1)
    launch = RankLauncher(Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)).measure(asked)
    (report,) = launch.reports
    assert list(report.phases_s) == [
        *("start", "import", "device", "group", "build", "warm-up", "data", "timed steps"),
        *("report", "teardown"),
    ]
    spent = launch.conditions.phases_s
    assert list(spent) == ["fork", *report.phases_s, "end"]
    assert min(spent.values()) >= 0
    assert report.began_s < report.window_start_s
    assert report.window_end_s - report.window_start_s <= spent["timed steps"]
    until_open_s = sum(seconds for name, seconds in spent.items() if name not in LATER)
    opened_s = report.window_start_s - report.began_s + spent["fork"]
    rounding_s = 1e-6
    assert -rounding_s <= opened_s - until_open_s <= spent["timed steps"] + rounding_s
