"""The window and the throughput of a launch, on reports of every form of a job, against a reference
that counts completions one by one; and what cannot be is refused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.results.records.measurement import Launch, check_times

CASE = Case("mine", "m", 2, "train")


@dataclass(frozen=True)
class Completion:
    """A step that a rank completed, at a time; `samples` of the job's samples leave the job."""

    rank: int
    step: int
    at_s: float
    samples: int


def reports_of(
    completions: Sequence[Completion], warmup: int, *, per_update: int
) -> tuple[RankReport, ...]:
    """What ranks with these completions report, of which the first `warmup` steps are untimed. A
    rank's window opens at its last untimed step and closes at its last timed one."""
    reports = []
    for rank in sorted({completion.rank for completion in completions}):
        own = sorted((c for c in completions if c.rank == rank), key=lambda c: c.step)
        timed = [completion for completion in own if completion.step >= warmup]
        start_s = max(completion.at_s for completion in own if completion.step < warmup)
        reports.append(
            RankReport(
                rank,
                start_s,
                timed[-1].at_s,
                step_index=tuple(completion.step - warmup for completion in timed),
                step_end_s=tuple(completion.at_s for completion in timed),
                step_samples=tuple(completion.samples for completion in timed),
                samples_per_update=per_update,
            )
        )
    return tuple(reports)


def reference(completions: Sequence[Completion], warmup: int) -> float:
    """Samples per second that leave the job, from the completion of its last warm-up step to that
    of its last timed one."""
    leaving = [completion for completion in completions if completion.samples]
    begin_s = max(completion.at_s for completion in leaving if completion.step < warmup)
    end_s = max(completion.at_s for completion in leaving)
    samples = sum(c.samples for c in leaving if begin_s < c.at_s <= end_s)
    return samples / (end_s - begin_s)


def each_step(rank: int, times_s: Sequence[float], samples: int) -> list[Completion]:
    """A rank that completes every step."""
    return [Completion(rank, step, at_s, samples) for step, at_s in enumerate(times_s)]


def in_turn(rank: int, replicas: int, times_s: Sequence[float], samples: int) -> list[Completion]:
    """Replica `rank` of a stage whose replicas take turns."""
    own = range(rank, len(times_s), replicas)
    return [Completion(rank, step, times_s[step], samples) for step in own]


# The first stage runs ahead, so it opens its window while the last stage still runs its first, cold
# minibatch: 100 s, of which no part is in steady state.
AHEAD = [1.0, 2.0, 3.0, 4.0, 103.0, 104.5, 106.0, 107.5]
COLD = [100.0, 101.0, 102.5, 104.0, 105.5, 107.0, 108.5, 110.0]
PAIRS = [100.0, 100.0, 103.0, 103.0, 106.0, 106.0, 109.0, 109.0]


@pytest.mark.parametrize(
    ("form", "completions", "per_update", "expected"),
    [
        ("ddp", each_step(0, [1, 2, 3, 4, 5, 6], 8) + each_step(1, [1, 2, 3, 4, 5, 6], 8), 16, 16),
        ("1-1", each_step(0, AHEAD, 0) + each_step(1, COLD, 8), 8, 8 / 1.5),
        ("2-1", in_turn(0, 2, AHEAD, 0) + in_turn(1, 2, AHEAD, 0)
         + [replace(c, rank=2) for c in each_step(0, COLD, 8)], 16, 8 / 1.5),
        ("1-2", [replace(c, rank=2) for c in each_step(0, AHEAD, 0)]
         + in_turn(0, 2, PAIRS, 8) + in_turn(1, 2, PAIRS, 8), 16, 16 / 3),
        ("1-2, validate", [replace(c, rank=2) for c in each_step(0, AHEAD, 0)]
         + in_turn(0, 2, COLD, 8) + in_turn(1, 2, COLD, 8), 8, 8 / 1.5),
        ("2bw on 1-1", each_step(0, AHEAD, 0) + each_step(1, COLD, 32), 32, 32 / 1.5),
        ("2bw on 1-2", [replace(c, rank=2) for c in each_step(0, AHEAD, 0)]
         + each_step(0, COLD, 16) + each_step(1, COLD, 16), 32, 32 / 1.5),
        ("flush on 1-1", each_step(0, [t + 0.5 for t in COLD], 0) + each_step(1, COLD, 32), 32,
         32 / 1.5),
        ("validate on 1-1", each_step(0, [0.1 * t for t in range(8)], 0) + each_step(1, COLD, 8), 8,
         8 / 1.5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_throughput_is_what_leaves_the_job_in_steady_state(
    form: str, completions: list[Completion], per_update: int, expected: float
) -> None:
    launch = Launch(reports_of(completions, 2, per_update=per_update))
    assert launch.throughput == pytest.approx(reference(completions, 2), rel=1e-12)
    assert launch.throughput == pytest.approx(expected, rel=1e-12)
    leaving = [c for c in completions if c.samples and c.step >= 2]
    window_s = sum(c.samples for c in leaving) / expected
    assert math.fsum(launch.step_time_s) == pytest.approx(window_s, rel=1e-12)
    check_times(CASE, launch)


def test_a_replica_that_was_early_does_not_add_what_it_did_before_the_window() -> None:
    # Replica 0 is ahead: its step 2 is complete before replica 1's last warm-up step.
    early = in_turn(0, 2, [1.0, 0, 2.0, 0, 4.0, 0, 6.0, 0], 8)
    late = in_turn(1, 2, [0, 2.5, 0, 3.5, 0, 5.5, 0, 7.5], 8)
    launch = Launch(reports_of(early + late, 2, per_update=8))
    assert launch.throughput == reference(early + late, 2) == 5 * 8 / 5.0
    assert launch.step_time_s == [1.0, 0.5, 1.5, 0.5, 1.5]
    check_times(CASE, launch)


def test_ranks_that_step_together_are_timed_by_the_slowest() -> None:
    quick, slow = each_step(0, [1.0, 2.0, 3.0], 8), each_step(1, [1.0, 2.5, 5.0], 8)
    launch = Launch(reports_of(quick + slow, 1, per_update=16))
    assert launch.throughput == 32 / 4.0
    assert launch.step_time_s == [1.5, 2.5]


def report(start_s: float, ends_s: Sequence[float], close_s: float, samples: int = 8) -> RankReport:
    """A rank's report with these readings of its clock."""
    steps = len(ends_s)
    return RankReport(
        0, start_s, close_s, tuple(range(steps)), tuple(ends_s), (samples,) * steps, samples
    )


@pytest.mark.parametrize(
    ("start_s", "ends_s", "close_s", "message"),
    [
        (math.nan, [1.0, 2.0], 2.0, r"read nan s before and 1\.0 s after step 0 of its timed"),
        (0.0, [1.0, math.nan], 2.0, r"read 1\.0 s before and nan s after step 1 of its timed"),
        (0.0, [1.0, 2.0], math.nan, r"read 2\.0 s before and nan s after the close of its timed"),
        (0.0, [1.0, 2.0], math.inf, r"read 2\.0 s before and inf s after the close"),
        (0.0, [1.0, 0.5], 2.0, r"read 1\.0 s before and 0\.5 s after step 1"),
        (5.0, [4.0, 3.0], 2.0, r"read 5\.0 s before and 4\.0 s after step 0"),
        (1.0, [1.0, 2.0], 2.0, r"read 1\.0 s before and 1\.0 s after step 0"),
        (0.0, [1.0, 2.0], 1.5, r"read 2\.0 s before and 1\.5 s after the close"),
        (3.0, [], 3.0, r"read 3\.0 s before and 3\.0 s after the close"),
    ],
)
def test_times_that_cannot_be_are_refused(
    start_s: float, ends_s: list[float], close_s: float, message: str
) -> None:
    with pytest.raises(WrongResult, match=rf"mine-m-2gpu \(train\): the clock of rank 0 {message}"):
        check_times(CASE, Launch((report(start_s, ends_s, close_s),)))


def test_a_throughput_that_its_step_times_contradict_is_refused_with_both_figures() -> None:
    check_times(CASE, Launch((report(0.0, [1.0, 2.0], 2.0 * 1.02),)))
    with pytest.raises(
        WrongResult,
        match=r"its throughput of 7\.76699 samples/s means 2\.06 s for its timed steps, and their"
        r" step times add up to 2 s; they may differ by 2%",
    ):
        check_times(CASE, Launch((report(0.0, [1.0, 2.0], 2.06),)))


def test_a_launch_without_samples_is_refused() -> None:
    with pytest.raises(WrongResult, match="no rank completed a sample"):
        check_times(CASE, Launch((report(0.0, [1.0, 2.0], 2.0, samples=0),)))
