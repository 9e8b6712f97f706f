"""A user's function on ranks: what is timed of it, how its work counts, and how it is refused."""

import itertools
from pathlib import Path

import pytest

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import RankRaised, UsageError, WrongResult
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import Correctness, FunctionRequest, Place, RankReport
from pytest_dnnbench.rank import timed_function
from pytest_dnnbench.rank.timed_run import measure
from pytest_dnnbench.results.records.measurement import Launch, check_times
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.run_length import Length
from tests.patience import HANG_S
from tests.rank.functions import FAST_S, SLOW_S
from tests.worked_clock import time_by_work

PROGRAMS = "tests.rank.functions"


def request(
    name: str,
    steps: Length = 4,
    warmup: Length = 1,
    *,
    ranks: int = 2,
    check: str = "",
    collective: str = "",
    most_steps: int | None = None,
    **arguments: Scalar,
) -> FunctionRequest:
    case = FunctionCase(f"{PROGRAMS}:{name}", "torch", ranks, arguments, check, collective)
    return FunctionRequest(
        case,
        (PROGRAMS, name, None),
        (PROGRAMS, check, None) if check else None,
        steps,
        warmup,
        most_steps=most_steps,
    )


def measured(server: ForkServer, asked: FunctionRequest) -> Launch:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = ranks.launch(MEASURE, asked, returns=RankReport)
    return Launch(tuple(reports))


def proven(server: ForkServer, asked: FunctionRequest) -> list[Correctness]:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    return ranks.launch(PROVE, asked, returns=Correctness)


class Alone:
    """The group of a rank in this process."""

    def join(self, place: Place) -> None:
        """There is no other rank to join."""

    def align(self) -> None:
        """Does not wait."""

    def leave(self) -> None:
        """There is no group to leave."""


def window_s(report: RankReport) -> float:
    return report.window_end_s - report.window_start_s


def durations(report: RankReport) -> list[float]:
    times = itertools.pairwise((report.window_start_s, *report.step_end_s))
    return [after - before for before, after in times]


def test_steps_are_timed_and_the_making_is_not(server: ForkServer, tmp_path: Path) -> None:
    launch = measured(server, request("Sleeps", 6, folder=str(tmp_path)))
    fast, slow = launch.reports
    for report in launch.reports:
        made_s = float((tmp_path / f"made-{report.rank}").read_text())
        assert made_s <= report.window_start_s, "what is made before is not timed"
        assert report.warmup_steps == 1
    assert FAST_S <= min(durations(fast)) < SLOW_S <= min(durations(slow)), "each rank's own"
    slowest = max(launch.reports, key=window_s)
    assert launch.step_time_s == durations(slowest)
    assert (fast.sample, fast.shared_samples) == ("step", True)
    assert launch.throughput == 6 / window_s(slowest)


def test_a_window_in_seconds_is_steady_and_has_no_more_steps_than_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time_by_work(monkeypatch)
    monkeypatch.setitem(timed_function._GROUPS, "torch", Alone)
    place = Place(0, 1, "cpu", 1, "", 60.0)
    report = measure(place, request("works", "0.25s", "auto", steps_per_second=512, ranks=1))
    assert report.steady is True
    assert (window_s(report), len(report.step_end_s)) == (0.25, 128)
    few = request("works", "0.25s", "auto", steps_per_second=512, ranks=1, most_steps=7)
    assert len(measure(place, few).step_end_s) == 7


def test_numbers_of_the_ranks_add_up(server: ForkServer) -> None:
    launch = measured(server, request("counts", first=8, later=8))
    assert [report.sample for report in launch.reports] == ["sample", "sample"]
    assert launch.throughput == 2 * 8 * 4 / max(map(window_s, launch.reports))


def test_a_collective_counts_its_size_once(server: ForkServer) -> None:
    launch = measured(server, request("Sum", size=4096, collective="all_reduce"))
    first = launch.reports[0]
    assert (first.sample, first.shared_samples, first.bus_factor) == ("B", True, 1.0)
    assert first.samples_per_update == 4096
    assert launch.throughput == 4096 * 4 / max(map(window_s, launch.reports))


def test_a_collective_has_one_size_on_all_ranks(server: ForkServer) -> None:
    asked = request("SizeOfItsOwn", size=4096, collective="all_reduce")
    launch = measured(server, asked)
    with pytest.raises(WrongResult, match="rank 1 counts other work than rank 0"):
        check_times(asked.case, launch)


@pytest.mark.parametrize("source", ["torch", "python", "numpy"])
def test_each_rank_draws_from_a_seed_of_its_own(server: ForkServer, source: str) -> None:
    first, again = (measured(server, request("draws", source=source)).reports for _ in range(2))
    assert first[0].step_samples != first[1].step_samples
    assert [report.step_samples for report in first] == [each.step_samples for each in again]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (request("is_no_step", ranks=1, size=4), "returned a int: let it return the step"),
        (request("Sum", ranks=1, bytes=4), "does not take the arguments .bytes=4.: missing a"),
        (request("without_signature", ranks=1, size=4), "does not take .*: no signature found"),
        (request("returns_text", ranks=1), "returned 'fast': let every step return nothing, or"),
        (request("counts", ranks=1, first=8, later=0), "a step of .*:counts returned None"),
        (request("counts", ranks=1, first=-1, later=1), "returned -1"),
        (request("counts", ranks=1, first=8, later=2**40 + 1), "too many samples: let each count"),
        (
            request("counts", ranks=1, first=0, later=0, collective="broadcast"),
            "returned nothing: a broadcast has a bandwidth",
        ),
    ],
)
def test_what_is_no_step_is_refused(server: ForkServer, asked: FunctionRequest, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        measured(server, asked)


def test_a_rank_that_cannot_be_made_is_named(server: ForkServer) -> None:
    with pytest.raises(
        RankRaised, match=r"rank 1 of 2 raised OSError .*no such shard: 1"
    ) as raised:
        measured(server, request("fails_on_rank_1"))
    assert raised.value.rank_phase == "build"


def test_a_right_step_passes_its_check(server: ForkServer) -> None:
    asked = request("Sum", size=64, check="check_sum")
    entry = agree(asked.case, proven(server, asked))
    assert (entry.checked, entry.largest_deviation) == (["check_sum"], {})


def test_a_wrong_step_fails_its_check_with_the_line_that_says_so(server: ForkServer) -> None:
    asked = request("Sum", size=64, off=0.5, check="check_sum")
    with pytest.raises(WrongResult, match=r"so it was not timed: check_sum says `assert bool\("):
        proven(server, asked)
