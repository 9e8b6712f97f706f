"""Limits: how much worse than its baseline a metric may be, or which figure it must reach whatever
the baseline.

    throughput=-5%                  relative: fails when more than 5% lower than the baseline
    allocated_peak_bytes=<=6GiB     absolute, in the metric's unit or in the one that is named
    scaling_efficiency=>=0.9 -3%    both
    step_time_s=off                 neither

One-sided: each metric has a direction that is worse, and a limit in the other one is refused.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import METRICS, Better, Metric
from pytest_dnnbench.results.records.schema import LimitEntry

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


Layers = Sequence[Mapping[str, Limit]]
"""Limits by metric, of several sources, the nearest to the user first."""


def parse_limit(metric: str, text: object, source: str) -> Limit:
    """The limit that someone wrote. Raises UsageError naming the source, the value and what to
    write."""
    if metric not in METRICS:
        raise UsageError(f"{source}: unknown metric {metric!r}: choose from {', '.join(METRICS)}")
    row = METRICS[metric]
    written = str(text).strip()
    form = f"{metric}{'' if written[:2] in ('<=', '>=') else '='}{text}"
    if text is None or written == "off":
        return Limit(off=True)
    limit = Limit()
    for part in re.sub(r"([<>]=)\s+", r"\1", written).split() or [""]:
        if (match := _RELATIVE.fullmatch(part)) and limit.relative is None:
            relative = _relative(source, form, match["number"], row.better)
            limit = replace(limit, relative=relative, relative_source=source)
        elif (bound := _ABSOLUTE.fullmatch(part)) and limit.absolute is None:
            absolute = _absolute(source, form, bound, row)
            limit = replace(limit, absolute=absolute, absolute_source=source)
        elif match or bound:
            kind = "change" if match else "bound"
            raise UsageError(f"{source}: {form!r} has two limits of a {kind}: keep one of the two")
        else:
            raise UsageError(
                f"{source}: {form!r} is not a limit: write a change such as {_example(row.better)},"
                f" a bound such as {_sign(row.better)}100, or off"
            )
    return limit


def parse_limits(entries: Mapping[str, object], source: str) -> dict[str, Limit]:
    """The limits of a marker: metric -> text."""
    return {metric: parse_limit(metric, text, source) for metric, text in entries.items()}


def parse_limit_list(entries: Iterable[str], source: str) -> dict[str, Limit]:
    """The limits of an option: `metric=limit` each."""
    limits: dict[str, Limit] = {}
    for entry in entries:
        metric, equals, text = entry.partition("=")
        if not equals:
            raise UsageError(
                f"{source}: {entry!r} is not a limit: write METRIC=LIMIT, as in throughput=-5%"
            )
        if metric[-1:] in "<>" and metric:  # throughput>=3000
            metric, text = metric[:-1], f"{metric[-1]}={text}"
        metric = metric.strip()
        if metric in limits:
            raise UsageError(f"{source}: {metric} is limited twice: keep one of the two")
        limits[metric] = parse_limit(metric, text, source)
    return limits


def default_limit(metric: str) -> Limit | None:
    """The limit that holds when no source sets one; None for a metric that is only recorded."""
    row = METRICS.get(metric)
    if row is None or row.tolerance is None:
        return None
    relative = -row.tolerance if row.better == "higher" else row.tolerance
    return Limit(relative=relative, relative_source="default")


def stored_limit(metric: str, entry: LimitEntry) -> Limit | None:
    """The limit that a stored record sets for later runs; None where it sets none.

    A relative limit whose source is "default" is not part of it: the defaults of the version that
    wrote the record bind nobody.
    """
    if metric not in METRICS:
        return None
    sign = -1 if METRICS[metric].better == "higher" else 1
    relative = entry.relative
    if relative is not None and (relative * sign < 0 or entry.source == "default"):
        relative = None
    if relative is None and entry.absolute is None:
        return None
    return Limit(relative, entry.absolute, "baseline", "baseline")


def stored_limits(thresholds: Mapping[str, LimitEntry]) -> dict[str, Limit]:
    """The limits that a stored record sets for later runs, by metric."""
    limits = {metric: stored_limit(metric, entry) for metric, entry in thresholds.items()}
    return {metric: limit for metric, limit in limits.items() if limit is not None}


def limit_in_force(metric: str, layers: Layers) -> Limit | None:
    """The limit that holds: of each kind the nearest layer's, of a relative one else the default.
    None when no kind has one."""
    resolved = Limit()
    for layer in layers:
        limit = layer.get(metric)
        if limit is None:
            continue
        if resolved.relative is None and limit.relative is not None:
            resolved = replace(
                resolved, relative=limit.relative, relative_source=limit.relative_source
            )
        if resolved.absolute is None and limit.absolute is not None:
            resolved = replace(
                resolved, absolute=limit.absolute, absolute_source=limit.absolute_source
            )
        if limit.off:
            break
    else:
        if resolved.relative is None and (default := default_limit(metric)):
            resolved = replace(resolved, relative=default.relative, relative_source="default")
    return None if resolved.relative is None and resolved.absolute is None else resolved


def limit_text(metric: str, limit: Limit) -> str:
    """The limit as users write it."""
    parts = [] if limit.relative is None else [f"{limit.relative * 100:+.6g}%"]
    if limit.absolute is not None:
        parts.append(f"{_sign(METRICS[metric].better)}{limit.absolute:.12g}")
    return " ".join(parts) or "off"


def _relative(source: str, form: str, number: str, better: Better) -> float:
    value = float(number) / 100
    if number.lstrip("+-") == number and value:
        raise UsageError(f"{source}: {form!r} lacks its sign: write {_example(better)}")
    if (value > 0) == (better == "higher") and value:
        raise UsageError(
            f"{source}: {form!r} would limit an improvement: {better} is better,"
            f" so write {_example(better)}"
        )
    if not -1 < value < 1:
        raise UsageError(f"{source}: {form!r} must stay below 100%")
    return value


def _absolute(source: str, form: str, match: re.Match[str], row: Metric) -> float:
    if match["sign"] != _sign(row.better):
        raise UsageError(
            f"{source}: {form!r} bounds the good side: {row.better} is better,"
            f" so write {_sign(row.better)}"
        )
    scales = {"": 1.0, row.unit: 1.0, **row.scales}
    if match["unit"] not in scales:
        raise UsageError(
            f"{source}: {form!r} has an unknown unit: choose from {', '.join(filter(None, scales))}"
        )
    value = float(match["number"]) * scales[match["unit"]]
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{source}: {form!r} must be finite and above zero")
    return value


def _sign(better: Better) -> str:
    return ">=" if better == "higher" else "<="


def _example(better: Better) -> str:
    return "-5%" if better == "higher" else "+5%"
