"""Saved sessions in the formats of services that keep histories: github-action-benchmark, Bencher,
and OpenMetrics for Prometheus. `docs/ci.md` says what each of them makes of a figure, and where
that is documented.

One rule for all: a metric's figure is the median of its undisturbed launches, with the 95% interval
over them. A case of which too few launches were undisturbed has none, and is named instead of
exported. Not here: reading (runs.py), files and arguments (export_command.py).
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import Better, metric_row
from pytest_dnnbench.report.openmetrics import labels_text, preflight_lines, stamp, time_of
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.spread import Interval, interval_of

LONGEST_NAME, LONGEST_MEASURE = 1024, 64
"""Characters that Bencher allows in the name of a benchmark and of a measure."""


@dataclass(frozen=True, slots=True)
class Point:
    """One metric of one case in one session. `value` and `interval` are in `unit`; `interval` is
    None where one launch was made; `at` is when the session was saved, None where a file does not
    say it."""

    result: Result
    metric: str
    unit: str
    better: Better
    value: float
    interval: Interval | None
    at: datetime | None


def points(runs: Sequence[Run], metrics: Sequence[str] = ()) -> tuple[list[Point], list[str]]:
    """The figures of all runs, of these metrics or of all, in the order of the files; and a line
    for each case with the figures that it does not have."""
    kept: list[Point] = []
    missing: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        for result in (*run.results, *run.functions):
            for metric in result.record.metrics:
                if metrics and metric not in metrics:
                    continue
                if result.value(metric) is None:
                    why = result.launches(metric).doubt or ""
                    missing.setdefault((run.source, result.name, why), []).append(metric)
                else:
                    kept.append(_point(run, result, metric))
    absent = [
        f"{source}: {name}: {', '.join(names)}: left out, {why}"
        for (source, name, why), names in missing.items()
    ]
    return kept, absent


def github_action_benchmark(exported: Sequence[Point]) -> dict[str, str]:
    """A file for the tool `customBiggerIsBetter` and one for `customSmallerIsBetter`. The action
    knows a case by its name alone, so the metric is part of it."""
    _once_each(exported)
    return {
        f"{name}.json": _json([
            _github_entry(point) for point in exported if point.better == better
        ])
        for name, better in (("bigger-is-better", "higher"), ("smaller-is-better", "lower"))
    }  # fmt: skip


def bencher(exported: Sequence[Point]) -> dict[str, str]:
    """One file of Bencher Metric Format: case -> measure -> value and bounds."""
    _once_each(exported)
    cases: dict[str, dict[str, dict[str, float]]] = {}
    for point in exported:
        measures = cases.setdefault(_bounded(point.result.name, LONGEST_NAME), {})
        measure = _bounded(_slug(point), LONGEST_MEASURE)
        if measure in measures:
            raise UsageError(
                f"{point.result.name}: two metrics would be Bencher's measure {measure!r}:"
                " choose one of them with --metrics"
            )
        bounds = point.interval
        measures[measure] = {"value": point.value} | (
            {"lower_value": bounds.low, "upper_value": bounds.high} if bounds else {}
        )
    return {"bencher.json": _json(cases)}


def openmetrics(exported: Sequence[Point], runs: Sequence[Run] = ()) -> dict[str, str]:
    """One file of OpenMetrics text: a gauge per metric, one each for the ends of its interval, with
    the time of the session, so that stored sessions can be filled in afterwards. Then what the
    preflights of these runs measured of nodes and links."""
    families: dict[tuple[str, str], list[Point]] = {}
    _one_per_time(exported)
    for point in exported:
        families.setdefault((point.metric, _base_unit(point.unit)), []).append(point)
    lines: list[str] = []
    owners: dict[str, tuple[str, str]] = {}
    for (metric, unit), members in sorted(families.items()):
        for bound, value_of in _BOUNDS.items():
            name = _family_name(metric, bound, unit)
            _one_owner(owners, name, metric, unit)
            lines += _family(name, metric, bound, unit, members, value_of)
    lines += preflight_lines(runs)
    return {"openmetrics.txt": "\n".join([*lines, "# EOF", ""])}


FORMATS: dict[str, Callable[[Sequence[Point], Sequence[Run]], dict[str, str]]] = {
    "github-action-benchmark": lambda exported, _: github_action_benchmark(exported),
    "bencher": lambda exported, _: bencher(exported),
    "openmetrics": openmetrics,
}
"""Each format's function: from figures, and the runs that they are of, to the contents of files by
their names. Nodes have a place in OpenMetrics alone: the others know cases."""


def _point(run: Run, result: Result, metric: str) -> Point:
    entry = result.record.metrics[metric]
    row = metric_row(metric, entry.unit, entry.better)
    value = result.value(metric)
    assert value is not None
    interval, at = interval_of(result, metric), time_of(run.saved)
    return Point(result, metric, entry.unit, row.better, value, interval, at)


def _once_each(exported: Iterable[Point]) -> None:
    """Raises UsageError where two sessions have the same case: these formats hold one session."""
    runs: dict[str, int] = {}
    for point in exported:
        name = point.result.name
        if runs.setdefault(name, point.result.run) != point.result.run:
            raise UsageError(
                f"two of the files hold the case {name}: this format holds one session, so export"
                " each session by itself"
            )


def _one_per_time(exported: Iterable[Point]) -> None:
    """Raises UsageError where two sessions of a case have the same time, or none: a series has one
    sample per time."""
    run_of: dict[tuple[str, str, datetime | None], int] = {}
    for point in exported:
        key = (point.result.name, point.metric, point.at)
        if run_of.setdefault(key, point.result.run) != point.result.run:
            raise UsageError(
                f"two of the files hold the case {point.result.name} at the time"
                f" {point.at or '(none)'}: leave one of them out"
            )


def _github_entry(point: Point) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": f"{point.result.name} {point.metric}",
        "unit": point.unit,
        "value": point.value,
    }
    if point.interval:
        half = max(point.interval.high - point.value, point.value - point.interval.low)
        entry["range"] = f"± {half:.4g}"
    launches = point.result.launches(point.metric)
    disturbed = f", {launches.disturbance}, left out" if launches.left_out else ""
    entry["extra"] = f"{counted(len(launches.values), 'launch')}{disturbed}"
    return entry


def _slug(point: Point) -> str:
    """A measure's name has its unit in it: a measure has one unit, and cases may differ in it."""
    name = point.metric if point.unit in ("", "1", "x") else f"{point.metric}_{point.unit}"
    shown = point.metric if point.metric.endswith(_SUFFIXES.get(point.unit, "\0")) else name
    return re.sub(r"[^a-z0-9]+", "-", shown.lower()).strip("-")


_SUFFIXES = {"B": "_bytes", "s": "_s"}
"""Endings of metrics' names that say their unit already."""

_BASE_UNITS = {"B": "bytes", "s": "seconds", "1": "ratio", "x": "ratio"}
"""Of our units those that OpenMetrics names."""


def _bounded(name: str, most: int) -> str:
    if len(name) > most:
        raise UsageError(
            f"{name[:60]}... has {len(name)} characters, and Bencher allows {most}: leave it out"
            " with --metrics, or shorten the name"
        )
    return name


def _base_unit(unit: str) -> str:
    return _BASE_UNITS.get(unit) or re.sub(r"[^a-z0-9]+", "_", unit.lower().replace("/", "_per_"))


_BOUNDS: dict[str, Callable[[Point], float | None]] = {
    "": lambda point: point.value,
    "_lower": lambda point: point.interval.low if point.interval else None,
    "_upper": lambda point: point.interval.high if point.interval else None,
}


def _one_owner(owners: dict[str, tuple[str, str]], name: str, metric: str, unit: str) -> None:
    """Raises UsageError where two metrics, or two units of one, would be the same family."""
    owner = owners.setdefault(name, (metric, unit))
    if owner != (metric, unit):
        raise UsageError(
            f"the metrics {owner[0]!r} and {metric!r} would both be the family {name!r}: choose one"
            " of them with --metrics"
        )


def _family_name(metric: str, bound: str, unit: str) -> str:
    """As in dnnbench_step_time_lower_seconds: a unit must be the suffix of the family's name."""
    stem = metric.removesuffix(f"_{unit}").removesuffix("_s" if unit == "seconds" else "")
    return "_".join(filter(None, (f"dnnbench_{stem}{bound}", unit)))


def _family(
    name: str,
    metric: str,
    bound: str,
    unit: str,
    members: Sequence[Point],
    value_of: Callable[[Point], float | None],
) -> list[str]:
    """The lines of one family."""
    about = {"": "median", "_lower": "lower end of the 95% interval", "_upper": "upper end of it"}
    samples = [
        f"{name}{_labels(point)} {value!r}{_stamp(point)}"
        for point in _by_series(members)
        if (value := value_of(point)) is not None
    ]
    if not samples:
        return []
    better = members[0].better
    return [
        f"# TYPE {name} gauge",
        *([f"# UNIT {name} {unit}"] if unit else []),
        f"# HELP {name} {metric} over undisturbed launches: {about[bound]}, {better} is better",
        *samples,
    ]


def _by_series(members: Sequence[Point]) -> list[Point]:
    """The samples of a series together, oldest first, as the format wants them."""
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(members, key=lambda point: (_labels(point), point.at or never))


def _labels(point: Point) -> str:
    record = point.result.record
    measured = record.measured_case
    labels = {
        "case": point.result.name,
        "framework": measured.framework,
        "gpus": measured.gpus,
        "device": measured.device,
    }
    if record.case is not None:
        labels |= {"model": record.case.model, "phase": record.case.phase}
        if record.case.shape:
            labels["shape"] = record.case.shape
    return labels_text(labels)


def _stamp(point: Point) -> str:
    return stamp(point.at)


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
