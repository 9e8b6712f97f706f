"""The history of each case over stored sessions, with the changes in it: in which session, by how
much, how sure, and what else was other from then on.

A history has the sessions that may be compared with the newest one, and of those the ones with
enough undisturbed launches. The statistics are in results/statistics/change_points.py; what is
drawn is in panels.py.
"""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import THROUGHPUT, YARDSTICK, metric_row
from pytest_dnnbench.report.axes import drawable
from pytest_dnnbench.report.figures import amount, change
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.study import Study, unlike
from pytest_dnnbench.results.statistics.change_points import (
    FEWEST,
    RATE,
    ChangePoint,
    change_points,
)

SCHEMA = 1
"""The version of the output of `history --json`. History: 1, the first."""

_EVER_OTHER = {"load_1min"}
_MOST_FACTS = 6


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a history. `after` is the first session after it, `before` the last one before.
    `elsewhere` lists the facts that had one value in all sessions before and another in all since;
    `machine` says by how much the machine's own speed changed, where that is in the same direction;
    `worse` is the direction of the metric."""

    point: ChangePoint
    before: Result
    after: Result
    worse: bool
    elsewhere: tuple[str, ...]
    machine: float | None


@dataclass(frozen=True, slots=True)
class History:
    """One metric of one case. `results` are the sessions that count, oldest first; `disturbed` and
    `unlike` count those that do not."""

    name: str
    metric: str
    unit: str
    results: tuple[Result, ...]
    changes: tuple[Change, ...]
    disturbed: int
    unlike: int

    @property
    def values(self) -> list[float]:
        """The figure of each session."""
        return [result.value(self.metric) or 0.0 for result in self.results]


def histories(
    study: Study,
    metrics: Sequence[str] = (THROUGHPUT,),
    *,
    case: str = "",
    across: Collection[str] = (),
    rate: float = RATE,
) -> list[History]:
    """The history of each of these metrics of each case whose name holds `case`. `across` names
    facts of the environment that may differ from the newest session's."""
    return [
        history(results, metric, across=across, rate=rate)
        for results in (*study.history.values(), *study.function_history.values())
        if case in results[-1].name
        for metric in metrics
        if metric in results[-1].record.metrics
    ]


def history(
    results: Sequence[Result], metric: str, *, across: Collection[str] = (), rate: float = RATE
) -> History:
    """The history of a metric of one case, from its results in all sessions, oldest first."""
    newest = results[-1]
    alike = [result for result in results if not set(unlike(result, newest)) - set(across)]
    whole = tuple(result for result in alike if drawable(result, metric))
    points = change_points([result.value(metric) or 1.0 for result in whole], rate=rate)
    ends = [0, *(point.at for point in points), len(whole)]
    return History(
        name=newest.name,
        metric=metric,
        unit=newest.record.metrics[metric].unit,
        results=whole,
        changes=tuple(
            _change(metric, point, whole[start : point.at], whole[point.at : end])
            for point, start, end in zip(points, ends, ends[2:], strict=False)
        ),
        disturbed=len(alike) - len(whole),
        unlike=len(results) - len(alike),
    )


def history_lines(runs: Sequence[Run], shown: Sequence[History], rate: float) -> list[str]:
    """For people: each history with a change, the latest change last; then the others in a line."""
    changed = [each for each in shown if each.changes]
    lines = [
        f"{counted(len(runs), 'session')}, {counted(len(shown), 'history')}:"
        f" {len(changed)} with changes (where nothing changed, chance"
        f" names one in {rate:.0%} of them)"
    ]
    for each in changed:
        first, last = each.values[0], each.values[-1]
        title = metric_row(each.metric).title
        lines += [
            "",
            f"{each.name}: {title}, {_counts(each)}",
            f"  {amount(first, each.unit)} in the first, {amount(last, each.unit)} in the last",
        ]
        for point in each.changes:
            lines += _change_lines(runs, point)
    quiet = [each for each in shown if not each.changes]
    least = 2 * FEWEST
    enough = [each for each in quiet if len(each.results) >= least]
    too_few = [each for each in quiet if len(each.results) < least]
    for head, some in (("no change:", enough), (_too_few(least), too_few)):
        lines += ["", head, *(f"  {_quiet_line(each)}" for each in some)] if some else []
    return lines


def _too_few(least: int) -> str:
    return f"not known, for a change shows in {least} sessions at the earliest:"


def to_data(runs: Sequence[Run], shown: Sequence[History], rate: float = RATE) -> dict[str, Any]:
    """Plain data, for programs."""
    return {
        "schema": SCHEMA,
        "rate": rate,
        "sessions": [
            {"file": run.source, "saved": run.saved, "commit": run.commit} for run in runs
        ],
        "histories": [
            {
                "case": each.name,
                "metric": each.metric,
                "unit": each.unit,
                "sessions": [result.run for result in each.results],
                "values": each.values,
                "disturbed": each.disturbed,
                "other_environment": each.unlike,
                "changes": [_change_data(point) for point in each.changes],
            }
            for each in shown
        ],
    }


def _change(
    metric: str, point: ChangePoint, before: Sequence[Result], after: Sequence[Result]
) -> Change:
    row = metric_row(metric, *_unit_and_direction(after[0], metric))
    return Change(
        point=point,
        before=before[-1],
        after=after[0],
        worse=(point.change < 0) == (row.better == "higher"),
        elsewhere=tuple(_other_facts(before, after)),
        machine=_machine(point, before, after, row.better == "higher") if row.timed else None,
    )


def _unit_and_direction(result: Result, metric: str) -> tuple[str, Any]:
    entry = result.record.metrics[metric]
    return entry.unit, entry.better


def _other_facts(before: Sequence[Result], after: Sequence[Result]) -> list[str]:
    """Facts with one value in all sessions before and another one in all since."""
    earlier, later = _facts(before), _facts(after)
    return [
        f"{name}: {next(iter(earlier[name]))} -> {next(iter(later[name]))}"
        for name in sorted(earlier.keys() & later.keys())
        if len(earlier[name]) == len(later[name]) == 1 and earlier[name] != later[name]
    ]


def _facts(results: Sequence[Result]) -> dict[str, set[object]]:
    values: dict[str, set[object]] = {}
    for result in results:
        environment = result.record.environment
        for name, value in {**environment.must_match, **environment.recorded}.items():
            if name not in _EVER_OTHER:
                values.setdefault(name, set()).add(value)
    return values


def _machine(
    point: ChangePoint, before: Sequence[Result], after: Sequence[Result], is_rate: bool
) -> float | None:
    """The change of the machine's speed by its yardstick, where it goes the same way as that of
    the case; below zero for a slower machine."""
    sides = [
        [value for result in side if (value := result.value(YARDSTICK))] for side in (before, after)
    ]
    if not all(sides):
        return None
    speed = statistics.median(sides[0]) / statistics.median(sides[1]) - 1
    of_case = point.change if is_rate else -point.change
    return speed if speed * of_case > 0 else None


def _counts(each: History) -> str:
    left_out = [
        f"{each.disturbed} left out as disturbed" if each.disturbed else "",
        f"{each.unlike} of another environment" if each.unlike else "",
    ]
    return ", ".join(filter(None, (f"{counted(len(each.results), 'session')}", *left_out)))


def _quiet_line(each: History) -> str:
    metric = "" if each.metric == THROUGHPUT else f" {metric_row(each.metric).title}"
    return f"{each.name}{metric}: {_counts(each)}"


def _change_lines(runs: Sequence[Run], changed: Change) -> list[str]:
    point, run = changed.point, runs[changed.after.run]
    low, high = map(change, point.interval)
    direction = "worse" if changed.worse else "better"
    lines = [
        f"  from {_session(run)} on: {change(point.change)} ({low} to {high}), {direction};"
        f" {point.chance:.1%} by chance"
    ]
    earlier = runs[changed.before.run]
    if run.commit and earlier.commit and run.commit != earlier.commit:
        lines.append(f"    commits: {earlier.commit}..{run.commit}")
    if changed.elsewhere:
        more = len(changed.elsewhere) - _MOST_FACTS
        shown = "; ".join(changed.elsewhere[:_MOST_FACTS])
        lines.append(f"    since then other: {shown}{f'; {more} more' if more > 0 else ''}")
    if changed.machine is not None:
        lines.append(f"    the machine's yardstick: {change(changed.machine)} of its speed")
    return lines


def _session(run: Run) -> str:
    return f"{run.source} ({run.saved[:10]})" if run.saved else run.source


def _change_data(changed: Change) -> dict[str, Any]:
    point = changed.point
    return {
        "before": changed.before.run,
        "from": changed.after.run,
        "change": point.change,
        "interval": list(point.interval),
        "chance": point.chance,
        "worse": changed.worse,
        "elsewhere": list(changed.elsewhere),
        "machine_speed": changed.machine,
    }
