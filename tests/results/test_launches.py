"""Disturbed launches: what a verdict rests on when someone else used the devices, now or in a
stored session."""

import random
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.comparability import facts_of
from pytest_dnnbench.results.baselines.golden_file import read_golden
from pytest_dnnbench.results.baselines.limits import Limit, default_limit
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.speed_up import relate
from pytest_dnnbench.results.records.verdict import Confirmation, MetricVerdict, Verdict
from pytest_dnnbench.results.verdicts.judge import judge, judge_again
from pytest_dnnbench.results.verdicts.text import failure_message, notes_of
from tests.results import synthetic
from tests.results.synthetic import NAME, judged, record, save, with_metric

TIME, MEMORY = "throughput", "allocated_peak_bytes"
BUSY = "other processes used 1.0 of 2 cores"


def reasons(*hit: int, of: int = 3) -> list[str | None]:
    """Of so many launches, those whose numbers are given are disturbed."""
    return [BUSY if number in hit else None for number in range(of)]


def disturbed(made: Record, *hit: int) -> Record:
    """The record with some of its launches disturbed."""
    return synthetic.disturbed(made, BUSY, *hit)


def limits(*metrics: str) -> dict[str, Limit]:
    return {metric: limit for metric in metrics if (limit := default_limit(metric)) is not None}


def baseline(metric: str = TIME, level: float = 100.0) -> CaseBaseline:
    rng = random.Random(1)
    history = [[level * rng.gauss(1, 0.002) for _ in range(3)] for _ in range(5)]
    return CaseBaseline("a.json", None, 5, {metric: history})


def verdict(
    now: list[float],
    why: list[str | None],
    again: Launches | None = None,
    metric: str = TIME,
    **more: Any,
) -> MetricVerdict:
    """The verdict on one metric whose baseline is 100."""
    measured = {metric: launches_of(metric, now, why)}
    held = baseline(metric), more.get("limits") or limits(metric), 1e-4
    made = (
        judge_again(measured, {metric: again}, *held) if again else judge(measured, *held).verdict
    )
    return made.metrics[metric]


def suspected(now: list[float], why: list[str | None]) -> bool:
    """Whether a case with these launches would be measured again."""
    first = {TIME: launches_of(TIME, now, why)}
    return bool(judge(first, baseline(), limits(TIME), 1e-4).suspects)


@pytest.mark.parametrize(
    ("hit", "of", "enough"),
    [((), 1, True), ((0,), 1, False), ((0,), 2, False), ((0,), 3, True), ((0, 1), 3, False),
     ((0, 1), 4, True), ((0, 1, 2), 5, False), ((0, 1, 2), 6, True)],
)  # fmt: skip
def test_two_undisturbed_launches_and_half_of_all_are_enough(
    hit: tuple[int, ...], of: int, enough: bool
) -> None:
    launches = launches_of(TIME, range(of), reasons(*hit, of=of))
    assert launches.enough is enough
    assert len(launches.trusted) == (of - len(hit) if enough else of)


def test_a_disturbance_changes_times_and_their_quotients_and_no_memory() -> None:
    timed = {TIME, "step_time_s", "speedup", "scaling_efficiency", "bubble_fraction"}
    every = {*timed, MEMORY, "cached_peak_bytes", "resident_peak_bytes", "loss", "someone_elses"}
    assert {
        metric for metric in every if launches_of(metric, [1.0, 2.0], [BUSY, None]).reasons
    } == timed


def test_a_disturbed_launch_is_left_out_and_the_others_decide() -> None:
    usual = verdict([100.1, 60.0, 99.9], reasons(1))
    assert (usual.status, usual.left_out) == ("ok", 1)
    assert usual.now == pytest.approx(100.0)
    slow = verdict([80.1, 100.0, 79.9], reasons(1))
    assert slow.status == "regressed"
    assert slow.now == pytest.approx(80.0)


def test_where_too_many_are_disturbed_no_difference_is_trusted() -> None:
    for level in (70.0, 130.0):
        launches = [level, level * 1.001, level * 0.999]
        noisy = verdict(launches, reasons(0, 1))
        assert (noisy.status, noisy.left_out, noisy.launches_needed) == ("noisy", 0, None)
        assert noisy.disturbance == f"2 of 3 launches disturbed ({BUSY})"
        assert suspected(launches, reasons(0, 1)) is (level < 100)
    assert verdict([100.0, 100.1, 99.9], reasons(0, 1)).status == "ok"


def test_an_absolute_limit_is_not_broken_by_disturbed_launches_either() -> None:
    bound = {TIME: Limit(absolute=90.0, absolute_source="a test")}
    assert verdict([70.0, 70.1, 69.9], reasons(0, 1), limits=bound).status == "noisy"
    assert verdict([70.0, 70.1, 69.9], reasons(), limits=bound).status == "regressed"


def test_memory_is_judged_as_ever() -> None:
    measured = {MEMORY: launches_of(MEMORY, [103e9] * 3, reasons(0, 1, 2))}
    look = judge(measured, baseline(MEMORY, 100e9), limits(MEMORY), 1e-4)
    assert look.verdict.metrics[MEMORY].status == "regressed"


@pytest.mark.parametrize(
    ("first", "again", "status", "why"),
    [
        ((80.0, reasons(0, 1, 2)), (80.1, reasons()), "regressed", "fresh ones are undisturbed"),
        ((80.0, reasons(0, 1, 2)), (100.0, reasons()), "ok", "what was slow was the disturbance"),
        ((80.0, reasons()), (80.1, reasons(0, 1)), "noisy", "nothing undisturbed repeats it"),
        ((80.0, reasons(0)), (80.1, reasons(2)), "regressed", "four of six are undisturbed"),
        ((80.0, reasons(0, 1, 2)), (80.1, reasons(0)), "noisy", "two of six are too few"),
    ],
)  # fmt: skip
def test_the_launches_of_both_looks_count_together(
    first: tuple[float, list[str | None]],
    again: tuple[float, list[str | None]],
    status: str,
    why: str,
) -> None:
    level, hit = first
    fresh = launches_of(TIME, [again[0] * (1 + noise) for noise in (0, 0.001, -0.001)], again[1])
    assert verdict([level, level * 1.001, level * 0.999], hit, fresh).status == status, why


def test_disturbances_of_unchanged_cases_raise_no_alarm_and_hide_no_regression() -> None:
    rng = random.Random(7)
    statuses: dict[float, list[str]] = {1.0: [], 0.8: []}
    for level in [1.0] * 150 + [0.8] * 150:

        def launches(count: int, level: float = level) -> Launches:
            why = [BUSY if rng.random() < 0.3 else None for _ in range(count)]
            rates = [
                100 * level * rng.gauss(1, 0.005) * (rng.uniform(0.5, 0.9) if reason else 1)
                for reason in why
            ]
            return launches_of(TIME, rates, why)

        first = {TIME: launches(3)}
        look = judge(first, baseline(), limits(TIME), 1e-4)
        last = look.verdict
        if look.suspects:
            last = judge_again(first, {TIME: launches(3)}, baseline(), limits(TIME), 1e-4)
        statuses[level].append(last.status)
    assert "regressed" not in statuses[1.0]
    assert statuses[0.8].count("regressed") > 0.7 * 150
    assert "ok" not in statuses[0.8]


def test_the_messages_name_the_disturbance() -> None:
    def judged_by(made: Record) -> Verdict:
        measured = {TIME: made.measured(TIME)}
        return judge(measured, baseline(level=3000), limits(TIME), 1e-4).verdict

    slow = disturbed(record(0.8), 1)
    slow.verdict = judged_by(slow)
    assert f"    1 of 3 launches disturbed ({BUSY}), left out" in failure_message(slow)
    [note] = notes_of(judged_by(disturbed(record(0.8), 0, 1)))
    assert note.endswith(
        f"2 of 3 launches disturbed ({BUSY}): measure again when the devices are free"
    )


def test_a_quotient_is_disturbed_where_one_of_its_two_launches_was() -> None:
    single, ddp = disturbed(record(framework="single", gpus=1), 0), disturbed(record(), 2)
    relate([single, ddp])
    assert ddp.metrics["speedup"].disturbed == reasons(0, 2)
    efficiencies = ddp.metrics["scaling_efficiency"].per_launch
    assert ddp.measured("scaling_efficiency").undisturbed == (efficiencies[1],)
    assert ddp.measured(TIME).reasons == tuple(ddp.reasons)


def stored(folder: Path, *hits: tuple[int, ...]) -> Path:
    """Sessions of which some launches were disturbed, and half as fast."""
    folder.mkdir()
    for number, hit in enumerate(hits, 1):
        made = disturbed(record(seed=number), *hit)
        for metric, factor in ((TIME, 0.5), ("step_time_s", 2.0)):
            values = made.metrics[metric].per_launch
            slowed = [
                value * (factor if launch in hit else 1) for launch, value in enumerate(values)
            ]
            with_metric(made, metric, slowed)
        save(folder / f"{number:04}_nightly.json", {NAME: made})
    return folder


def test_disturbed_launches_are_no_part_of_the_history(tmp_path: Path) -> None:
    runs = storage_runs(stored(tmp_path / "s", (), (0,), (0, 1, 2), ()), "latest")
    case = runs.of(NAME, facts_of(record()))
    assert isinstance(case, CaseBaseline)
    assert [len(session) for session in case.history[TIME]] == [3, 2, 3]
    assert min(value for session in case.history[TIME] for value in session) > 2900
    assert [len(session) for session in case.history[MEMORY]] == [3, 3, 3, 3]
    assert runs.passed_over == [
        f"0003_nightly.json: every launch of {NAME} was disturbed: times are not used"
    ]
    assert case.disturbed == ()


@pytest.mark.parametrize("source", ["latest", "2"])
def test_a_baseline_in_which_every_launch_was_disturbed_has_no_times_and_says_so(
    tmp_path: Path, source: str
) -> None:
    hits = [(0, 1, 2), (0, 1, 2)] if source == "latest" else [(), (0, 1, 2)]
    runs = storage_runs(stored(tmp_path / "s", *hits), source)
    case = runs.of(NAME, facts_of(record()))
    assert isinstance(case, CaseBaseline)
    assert set(case.history) == {MEMORY}
    assert set(case.metrics) >= {TIME, MEMORY}
    slow = record(0.5)
    measured = {name: slow.measured(name) for name in limits(TIME, MEMORY)}
    look = judge(measured, case, limits(TIME, MEMORY), 1e-4)
    assert set(look.verdict.metrics) == {MEMORY}
    assert look.verdict.status == "partial"
    assert look.verdict.unjudged == {TIME: "every stored launch was disturbed"}
    assert notes_of(look.verdict) == [
        f"ok: {MEMORY} only; {TIME} not judged, because every stored launch was disturbed"
    ]


def test_launches_of_a_confirmation_have_reasons_of_their_own(tmp_path: Path) -> None:
    made = disturbed(record(), 0)
    confirmation = Confirmation(
        launches=2, per_launch={TIME: [1.0, 2.0]}, disturbed=[None, BUSY], first={}
    )
    made.verdict = Verdict(confirmation=confirmation)
    case = read_saved(save(tmp_path / "a.json", {NAME: made})).cases[NAME]
    assert case.measured(TIME).undisturbed == (*made.metrics[TIME].per_launch[1:], 1.0)
    assert len(case.measured(MEMORY).undisturbed) == 3


def test_reasons_that_do_not_fit_the_launches_are_refused(tmp_path: Path) -> None:
    made = disturbed(record(), 0)
    made.launches.pop()
    with pytest.raises(
        DataError, match=r"throughput: 3 values, but 2 launches that say whether they were dist"
    ):
        read_saved(save(tmp_path / "a.json", {NAME: made}))


def test_compare_rests_on_the_undisturbed_launches_of_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, half, slow = (tmp_path / name for name in ("old.json", "half.json", "slow.json"))
    save(old, {NAME: record()})
    save(half, {NAME: disturbed(record(0.5), 0, 1)})
    save(slow, {NAME: disturbed(record(0.5), 0)})
    assert main(["compare", str(old), str(half)]) == 0
    assert f"2 of 3 launches disturbed ({BUSY})" in capsys.readouterr().out
    assert main(["compare", str(old), str(slow)]) == 1


def test_a_golden_file_takes_undisturbed_launches_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = stored(tmp_path / "s", (), (1,), (0, 1, 2)), tmp_path / "golden.json"
    assert main(["baseline", "update", str(path), *map(str, sorted(folder.iterdir()))]) == 0
    assert (
        f"0003_nightly.json: every launch of {NAME} was disturbed: times are not used"
        in capsys.readouterr().out
    )
    metrics = read_golden(path).cases[NAME].metrics
    assert [len(session) for session in metrics[TIME].sessions] == [3, 2]
    assert len(metrics[MEMORY].sessions) == 3


def test_a_golden_file_does_not_begin_anew_with_a_disturbed_session(tmp_path: Path) -> None:
    path, worse = tmp_path / "golden.json", judged(disturbed(record(0.5), 0, 1, 2), "regressed")
    assert main(["baseline", "update", str(path), str(save(tmp_path / "a.json"))]) == 0
    run = str(save(tmp_path / "b.json", {NAME: worse}))
    before = path.read_text()
    assert main(["baseline", "accept", str(path), run, "--reason", "x"]) == 2
    assert path.read_text() == before


@pytest.mark.parametrize(("why", "why_again"), [([BUSY, None], []), ([], [None, BUSY])])
def test_launches_that_follow_others_change_nobodys_reason(
    why: list[str | None], why_again: list[str | None]
) -> None:
    both = launches_of(TIME, [1.0, 2.0], why).followed_by(launches_of(TIME, [3.0, 4.0], why_again))
    assert both.values == (1.0, 2.0, 3.0, 4.0)
    assert both.reasons == (*(why or [None] * 2), *(why_again or [None] * 2))
