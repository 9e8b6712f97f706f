"""The history of each case over stored sessions, with the changes in it: in which session, by how
much, how sure, and what else was other from then on.

A case has a history for each environment that it was measured in: its sessions may be compared with
each other, and of them those count that have enough undisturbed launches. So a change is named also
after torch or the machine has become another. The statistics are in
results/statistics/change_points.py; what people read is in history_text.py, what is drawn in
panels.py.
"""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_dnnbench.metrics import THROUGHPUT, YARDSTICK, metric_row
from pytest_dnnbench.report.axes import drawable
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.study import Study, unlike
from pytest_dnnbench.results.statistics.change_points import RATE, ChangePoint, change_points

SCHEMA = 1
"""The version of the output of `history --json`. History: 1, the first."""

_EVER_OTHER = {"load_1min"}


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
    """One metric of one case in one environment. `results` are the sessions that count, oldest
    first; `disturbed` and `unlike` count those that do not. `elsewhere` has the facts that are
    other in the newest session of the case, as in `torch: 2.12.0 -> 2.13.0`: none where that
    session is in this history."""

    name: str
    metric: str
    unit: str
    results: tuple[Result, ...]
    changes: tuple[Change, ...]
    disturbed: int
    unlike: int
    elsewhere: tuple[str, ...] = ()

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
    """The histories of each of these metrics of each case whose name holds `case`: that of the
    newest session's environment first, then those of earlier ones. `across` names facts that may
    differ within a history."""
    return [
        each
        for results in (*study.history.values(), *study.function_history.values())
        if case in results[-1].name
        for metric in metrics
        if metric in results[-1].record.metrics
        for each in _environments(results, metric, across=across, rate=rate)
    ]


def _environments(
    results: Sequence[Result], metric: str, *, across: Collection[str], rate: float
) -> list[History]:
    """The history of a case in the environment of its newest session, in that of the newest session
    which is not in it, and so on."""
    newest, shown, remaining = results[-1], list[History](), list(results)
    while remaining:
        each = history(remaining, metric, across=across, rate=rate)
        others = [result for result in remaining if not _alike(result, remaining[-1], across)]
        differs = tuple(_other_facts([remaining[-1]], [newest], unlike(remaining[-1], newest)))
        shown.append(
            replace(each, unlike=len(results) - len(remaining) + len(others), elsewhere=differs)
        )
        remaining = others
    return shown


def history(
    results: Sequence[Result], metric: str, *, across: Collection[str] = (), rate: float = RATE
) -> History:
    """The history of a metric of one case in the environment of its newest session, from its
    results in all sessions, oldest first."""
    newest = results[-1]
    alike = [result for result in results if _alike(result, newest, across)]
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


def _alike(result: Result, newest: Result, across: Collection[str]) -> bool:
    return not set(unlike(result, newest)) - set(across)


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
                "newest_differs": list(each.elsewhere),
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


def _other_facts(
    before: Sequence[Result], after: Sequence[Result], names: Collection[str] | None = None
) -> list[str]:
    """Facts, of these or of all, with one value in all sessions before and another one in all
    since."""
    earlier, later = _facts(before), _facts(after)
    both = earlier.keys() & later.keys()
    return [
        f"{name}: {next(iter(earlier[name]))} -> {next(iter(later[name]))}"
        for name in sorted(both if names is None else both & {*names})
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
