"""A slower machine: what its yardstick explains is no regression, and what goes beyond it is."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_file import read_golden, write_golden
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.baselines.limits import Limit, default_limit, parse_limit
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import MetricVerdict, Verdict
from pytest_dnnbench.results.verdicts.judge import judge, judge_again
from pytest_dnnbench.results.verdicts.text import failure_message, notes_of
from tests.results.synthetic import NAME, elsewhere, record, save, with_metric

TIME, MEMORY = "throughput", "allocated_peak_bytes"
LAUNCHES = 3


def values(rng: random.Random, level: float, noise: float = 0.004) -> tuple[float, ...]:
    """The launches of a session at this level."""
    return tuple(level * (1 + rng.gauss(0, noise)) for _ in range(LAUNCHES))


def baseline(rng: random.Random, *metrics: str) -> CaseBaseline:
    """Five sessions in which every metric, the yardstick included, is 100."""
    history = {
        metric: [list(values(rng, 100)) for _ in range(5)] for metric in (*metrics, YARDSTICK)
    }
    return CaseBaseline("a.json", None, 5, history)


def entry(
    level: float,
    yardstick: float | None,
    metric: str = TIME,
    seed: int = 0,
    limit: Limit | None = None,
    **more: Any,
) -> MetricVerdict:
    """The last word on a metric at this level: measured, and measured again, beside a yardstick at
    that level."""
    rng = random.Random(seed)
    against = more.get("against") or baseline(rng, metric)
    levels = {metric: level} if yardstick is None else {metric: level, YARDSTICK: yardstick}
    first, again = (
        {name: Launches(values(rng, each)) for name, each in levels.items()} for _ in range(2)
    )
    limit = limit or default_limit(metric)
    assert limit is not None
    return judge_again(first, again, against, {metric: limit}, 1e-4).metrics[metric]


def test_a_machine_that_is_slower_by_as_much_explains_a_slower_case() -> None:
    verdict = entry(77, 130)
    assert verdict.status == "noisy"
    assert verdict.launches_needed is None
    assert verdict.machine is not None
    assert verdict.machine.explains
    assert verdict.machine.speed == pytest.approx(-0.23, abs=0.01)


def test_a_case_that_lost_far_more_than_the_machine_has_regressed() -> None:
    verdict = entry(60, 110)
    assert verdict.status == "regressed"
    assert verdict.machine is not None
    assert verdict.machine.explains is False


def test_a_slower_case_on_a_machine_as_fast_as_before_has_regressed() -> None:
    assert entry(77, 100).status == "regressed"
    assert entry(77, 100).machine is None


def test_without_a_yardstick_nothing_is_explained() -> None:
    assert entry(77, None).status == "regressed"


def test_a_yardstick_of_the_baseline_that_cannot_be_one_explains_nothing() -> None:
    against = baseline(random.Random(0), TIME)
    against.history[YARDSTICK][:] = [[0.0, 0.0, 0.0]]
    assert entry(77, 130, against=against).status == "regressed"


def test_a_faster_machine_explains_no_slower_case_but_a_faster_one() -> None:
    assert entry(77, 80).status == "regressed"
    assert entry(125, 80).status == "noisy"
    assert entry(125, 100).status == "improved"


def test_times_are_explained_as_rates_are() -> None:
    assert entry(130, 130, "step_time_s").status == "noisy"
    assert entry(77, 77, "step_time_s").status == "noisy"
    assert entry(130, 77, "step_time_s").status == "regressed"


def test_memory_has_nothing_to_do_with_the_machines_speed() -> None:
    rng = random.Random(0)
    history = {MEMORY: [[100e9] * 3] * 5, **baseline(rng).history}
    against = CaseBaseline("a.json", None, 5, history)
    measured = {MEMORY: Launches((130e9,) * 3), YARDSTICK: Launches(values(rng, 130))}
    limit = default_limit(MEMORY)
    assert limit is not None
    judged = judge(measured, against, {MEMORY: limit}, 1e-4)
    assert judged.verdict.metrics[MEMORY].status == "regressed"


def test_a_limit_on_the_yardstick_itself_holds() -> None:
    limit = parse_limit(YARDSTICK, "+5%", "test")
    rng = random.Random(0)
    first, again = ({YARDSTICK: Launches(values(rng, 130))} for _ in range(2))
    verdict = judge_again(first, again, baseline(rng), {YARDSTICK: limit}, 1e-4)
    assert verdict.metrics[YARDSTICK].status == "regressed"


def test_an_absolute_limit_is_explained_too() -> None:
    limit = parse_limit(TIME, ">=95", "test")
    assert entry(77, 130, limit=limit).status == "noisy"
    assert entry(77, 100, limit=limit).status == "regressed"


def test_the_first_look_at_a_case_on_a_slower_machine_asks_for_another() -> None:
    rng = random.Random(0)
    against, limit = baseline(rng, TIME), default_limit(TIME)
    assert limit is not None
    measured = {TIME: Launches(values(rng, 77)), YARDSTICK: Launches(values(rng, 130))}
    judged = judge(measured, against, {TIME: limit}, 1e-4)
    assert judged.suspects == (TIME,)
    assert judged.verdict.status == "noisy"


def test_disturbed_launches_say_nothing_about_the_machine() -> None:
    rng = random.Random(0)
    against, limit = baseline(rng, TIME), default_limit(TIME)
    assert limit is not None
    reasons = ["busy", None, None]
    slow = {
        TIME: launches_of(TIME, (50.0, 100.0, 100.1), reasons),
        YARDSTICK: launches_of(YARDSTICK, (200.0, 100.0, 100.1), reasons),
    }
    assert judge(slow, against, {TIME: limit}, 1e-4).verdict.status == "ok"


def test_a_steady_machine_costs_no_regression_its_verdict() -> None:
    statuses = [entry(93, 100, seed=seed).status for seed in range(200)]
    assert statuses.count("regressed") >= 190


def test_cases_of_a_machine_that_is_slower_for_a_session_do_not_fail() -> None:
    """Cases that lose as much as the yardstick, half as much, half as much again, or nothing."""
    statuses = [
        entry(100 * slower ** (share * -1.0), 100 * slower, seed=seed).status
        for seed in range(50)
        for slower in (1.05, 1.1, 1.3)
        for share in (0.0, 0.5, 1.0, 1.5)
    ]
    assert "regressed" not in statuses


def on_machine(made: Record, yardstick_s: float) -> Record:
    return with_metric(made, YARDSTICK, [yardstick_s * share for share in (0.999, 1.0, 1.002)])


def stored(folder: Path) -> list[Path]:
    return [
        save(folder / f"{n:04}_a.json", {NAME: on_machine(record(seed=n), 0.002)})
        for n in range(1, 6)
    ]


def test_two_saved_files_are_compared_by_the_same_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, old = stored(tmp_path)
    new = save(tmp_path / "0006_a.json", {NAME: on_machine(record(0.75, seed=9), 0.0027)})
    assert main(["compare", str(old), str(new)]) == 0
    assert (
        "the machine itself is 25.9% slower than for the baseline (yardstick 2 ms, now 2.7 ms)"
        in (capsys.readouterr().out)
    )
    worse = save(tmp_path / "0007_a.json", {NAME: on_machine(record(0.75, seed=9), 0.002)})
    assert main(["compare", str(old), str(worse)]) == 1


def test_across_another_torch_the_yardstick_explains_nothing(tmp_path: Path) -> None:
    *_, old = stored(tmp_path)
    other = elsewhere(on_machine(record(0.75, seed=9), 0.0027), torch="2.14.0")
    new = save(tmp_path / "0006_a.json", {NAME: other})
    assert main(["compare", str(old), str(new), "--across", "torch"]) == 1


def test_a_golden_file_keeps_the_yardstick(tmp_path: Path) -> None:
    golden = Golden(tmp_path / "golden.json")
    for path in stored(tmp_path):
        update_golden(golden, read_saved(path))
    write_golden(golden)
    stored_case = read_golden(golden.path).stored(NAME)
    assert isinstance(stored_case, CaseBaseline)
    assert len(stored_case.history[YARDSTICK]) == 5
    assert stored_case.noise[YARDSTICK].sessions == 5


def test_the_words_name_the_machine() -> None:
    (note,) = notes_of(Verdict(status="noisy", metrics={TIME: entry(77, 130)}))
    assert re.fullmatch(
        r"throughput -2\d\.\d%: the machine itself is 2\d\.\d% slower than for the baseline"
        r" \(yardstick [\d.]+ s, now [\d.]+ s\): measure again when it is as it was,"
        r" or make a new baseline",
        note,
    )
    worse = record()
    worse.verdict = Verdict(status="regressed", metrics={TIME: entry(60, 110)})
    message = failure_message(worse)
    assert "the machine itself is" in message
    assert "which does not explain it" in message
