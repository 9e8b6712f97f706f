"""Figures as text: amounts with their units, rates, changes and intervals."""

from collections.abc import Callable

from pytest_dnnbench.metrics import RATE_UNITS
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.spread import interval_of

NOTHING = "-"
"""Stands for a figure that a record does not have."""

MIB, GIB = 2.0**20, 2.0**30


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit, in the multiple that reads best."""
    if value is None:
        return NOTHING
    if unit == "B":
        return f"{value / GIB:,.2f} GiB" if abs(value) >= 10 * GIB else f"{value / MIB:,.0f} MiB"
    if unit == "s":
        return f"{1e3 * value:,.4g} ms" if abs(value) < 10 else f"{value:,.2f} s"
    if unit == "B/s":
        return f"{bandwidth(value)} GB/s"
    if unit in RATE_UNITS:
        return f"{rate(value)} {unit}"
    if unit == "x":
        return f"{value:.2f}x"
    if unit == "1":
        return f"{value:.1%}"
    return f"{value:,.4g} {unit}".rstrip()


def rate(value: float | None) -> str:
    """A throughput without its unit."""
    if value is None:
        return NOTHING
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:,.4g}"


def bandwidth(value: float | None) -> str:
    """A bandwidth in GB/s, 1e9 bytes, as those who benchmark collectives write it."""
    return NOTHING if value is None else f"{value / 1e9:,.3g}"


def change(fraction: float) -> str:
    """A signed change in percent."""
    return f"{fraction:+.1%}" if abs(fraction) < 10 else f"{fraction:+,.0%}"


def range_text(result: Result, metric: str, form: Callable[[float], str]) -> str:
    """The range of all launches in brackets, of a case that has no figure because too few launches
    were undisturbed."""
    low, high = result.launches(metric).ends
    return f"[{form(low)} to {form(high)}]"


def bounds(result: Result, metric: str) -> str:
    """The 95% interval of a metric over the launches; says why when there is none."""
    interval = interval_of(result, metric)
    if interval is None:
        launches = result.launches(metric)
        return launches.doubt or ("no interval" if len(launches.values) < 2 else NOTHING)
    unit = result.record.metrics[metric].unit
    return f"{amount(interval.low, unit)} to {amount(interval.high, unit)}"
