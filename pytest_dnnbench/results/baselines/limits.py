"""Limits: how much worse than its baseline a metric may be, or which figure it must reach whatever
the baseline.

    throughput=-5%                relative: fails when more than 5% lower than the baseline
    allocated_peak_bytes=<=6GiB         absolute, in the metric's unit or one that is named
    scaling_efficiency=>=0.9 -3%        both
    step_time_s=off                     neither

One-sided: each metric has a direction that is worse, and a limit in the other one is refused.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import METRICS

_UNITS = {
    "B": {"B": 1.0, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 1e3, "MB": 1e6, "GB": 1e9},
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "1": {"%": 0.01},
}
_ABSOLUTE = re.compile(
    r"(?P<sign>[<>]=)\s*(?P<number>[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>\S*)"
)
_RELATIVE = re.compile(r"(?P<number>[+-]?[0-9]+(?:\.[0-9]+)?)%")


@dataclass(frozen=True, slots=True)
class Limit:
    """One or both kinds of limit of one metric, each with the source that set it.

    `relative` is signed: -0.05 means "fails when 5% lower". `off`: this source takes all limits
    away.
    """

    relative: float | None = None
    absolute: float | None = None
    relative_source: str = ""
    absolute_source: str = ""
    off: bool = False


def parse_limit(metric: str, text: object, source: str) -> Limit:
    """The limit that someone wrote. Raises UsageError naming the source, the value and what to
    write."""
    if metric not in METRICS:
        raise UsageError(f"{source}: unknown metric {metric!r}: choose from {', '.join(METRICS)}")
    better, unit = METRICS[metric].better, METRICS[metric].unit
    form = f"{metric}={text}"
    written = str(text).strip()
    if text is None or written == "off":
        return Limit(off=True)
    limit = Limit()
    for part in re.sub(r"([<>]=)\s+", r"\1", written).split() or [""]:
        if found := _RELATIVE.fullmatch(part):
            limit = replace(
                limit,
                relative=_relative(source, form, found["number"], better),
                relative_source=source,
            )
        elif found := _ABSOLUTE.fullmatch(part):
            limit = replace(
                limit, absolute=_absolute(source, form, found, better, unit), absolute_source=source
            )
        else:
            raise UsageError(
                f"{source}: {form!r} is not a limit: write a change such as {_example(better)},"
                f" a bound such as {_sign(better)}100, or off"
            )
    return limit


def parse_limits(entries: Mapping[str, object], source: str) -> dict[str, Limit]:
    """The limits of a marker: metric -> text."""
    return {metric: parse_limit(metric, text, source) for metric, text in entries.items()}


def parse_limit_list(entries: Sequence[str], source: str) -> dict[str, Limit]:
    """The limits of an option: `metric=limit` each."""
    found: dict[str, Limit] = {}
    for entry in entries:
        metric, equals, text = entry.partition("=")
        if not equals:
            raise UsageError(
                f"{source}: {entry!r} is not a limit: write METRIC=LIMIT, as in throughput=-5%"
            )
        if metric[-1:] in "<>" and metric:  # throughput>=3000
            metric, text = metric[:-1], f"{metric[-1]}={text}"
        metric = metric.strip()
        if metric in found:
            raise UsageError(f"{source}: {metric} is limited twice: keep one of them")
        found[metric] = parse_limit(metric, text, source)
    return found


def default_limit(metric: str) -> Limit | None:
    """What holds when nobody says anything; None for a metric that is only recorded."""
    known = METRICS.get(metric)
    if known is None or known.tolerance is None:
        return None
    relative = -known.tolerance if known.better == "higher" else known.tolerance
    return Limit(relative=relative, relative_source="default")


def stored_limit(
    metric: str, relative: float | None, absolute: float | None, source: str
) -> Limit | None:
    """The limit of a baseline file, its contract; the defaults of the version that wrote it
    (`source` of the relative limit) are not part of it."""
    if metric not in METRICS:
        return None
    sign = -1 if METRICS[metric].better == "higher" else 1
    kept = (
        relative if relative is not None and relative * sign >= 0 and source != "default" else None
    )
    return (
        None if kept is None and absolute is None else Limit(kept, absolute, "baseline", "baseline")
    )


def resolve(metric: str, layers: Sequence[Mapping[str, Limit]]) -> Limit | None:
    """What holds of several layers, nearest to the user first; None when nothing does."""
    found = Limit()
    for layer in layers:
        limit = layer.get(metric)
        if limit is None:
            continue
        if found.relative is None and limit.relative is not None:
            found = replace(found, relative=limit.relative, relative_source=limit.relative_source)
        if found.absolute is None and limit.absolute is not None:
            found = replace(found, absolute=limit.absolute, absolute_source=limit.absolute_source)
        if limit.off:
            break
    else:
        if found.relative is None and (default := default_limit(metric)):
            found = replace(found, relative=default.relative, relative_source="default")
    return found if found.relative is not None or found.absolute is not None else None


def limit_text(metric: str, limit: Limit) -> str:
    """The limit as one would write it."""
    parts = [] if limit.relative is None else [f"{limit.relative * 100:+.6g}%"]
    if limit.absolute is not None:
        parts.append(f"{_sign(METRICS[metric].better)}{limit.absolute:.12g}")
    return " ".join(parts) or "off"


def _relative(source: str, form: str, number: str, better: str) -> float:
    value = float(number) / 100
    if number.lstrip("+-") == number and value:
        raise UsageError(f"{source}: {form!r} lacks its sign: write {_example(better)}")
    if (value > 0) == (better == "higher") and value:
        raise UsageError(
            f"{source}: {form!r} would limit an improvement: {better} is better, so write {_example(better)}"
        )
    if not -1 < value < 1:
        raise UsageError(f"{source}: {form!r} must stay below 100%")
    return value


def _absolute(source: str, form: str, found: Any, better: str, unit: str) -> float:
    if found["sign"] != _sign(better):
        raise UsageError(
            f"{source}: {form!r} bounds the good side: {better} is better, so write {_sign(better)}"
        )
    scales = {"": 1.0, unit: 1.0, **_UNITS.get(unit, {})}
    if found["unit"] not in scales:
        raise UsageError(
            f"{source}: {form!r} has an unknown unit: choose from {', '.join(filter(None, scales))}"
        )
    value = float(found["number"]) * scales[found["unit"]]
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{source}: {form!r} must be finite and above zero")
    return value


def _sign(better: str) -> str:
    return ">=" if better == "higher" else "<="


def _example(better: str) -> str:
    return "-5%" if better == "higher" else "+5%"
