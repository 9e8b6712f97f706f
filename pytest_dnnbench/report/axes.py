"""Marks and axes that several panels share: lines, whiskers, legends, the axis of devices.

What a panel draws with them is in panels.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_dnnbench.counted import counted
from pytest_dnnbench.report.canvas import DISTURBED, look, short, title_text
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.spread import interval_of
from pytest_dnnbench.report.study import CaseGroup, Study
from pytest_dnnbench.results.records.launches import Launches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#9aa3ad"

T = TypeVar("T")

# Points that are drawn of one case's launches, and device counts that have a tick.
_MOST_DOTS, _MOST_TICKS = 20, 8

_MOST_DODGED = 8
"""Series that are shifted against each other; more would shift too far."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A metric as it is drawn: in which unit, how marked."""

    metric: str
    label: str = ""
    scale: float = 1.0
    hollow: bool = False


def drawable(result: Result, metric: str) -> bool:
    """Whether the case has a figure of the metric, above zero as every measured one is."""
    return (result.value(metric) or 0) > 0


def series_of(study: Study, group: CaseGroup) -> list[tuple[str, list[Result]]]:
    """Label and results of each series of a group."""
    members: dict[str, list[Result]] = {}
    for result in group.results:
        members.setdefault(study.label(result), []).append(result)
    return [(label, members[label]) for label in study.series if label in members]


def line(axes: "Axes", study: Study, series: tuple[str, list[Result]], quantity: Quantity) -> None:
    """A series against the number of devices: whiskers, the launches as dots, the medians."""
    label, members = series
    style, hollow, dodge = look(*study.looks[label]), quantity.hollow, _dodge(study, label)
    disturbed_dots(axes, [result.case.gpus * dodge for result in members], members, quantity)
    results = sorted(
        (result for result in members if drawable(result, quantity.metric)),
        key=lambda result: result.case.gpus,
    )
    if not results:
        return
    xs = [result.case.gpus * dodge for result in results]
    whiskers(axes, xs, results, quantity, style["color"])
    _launch_dots(axes, xs, results, quantity, style["color"])
    medians = [(result.value(quantity.metric) or 0) / quantity.scale for result in results]
    axes.plot(
        xs,
        medians,
        **style,
        linestyle="--" if hollow else "-",
        markerfacecolor="white" if hollow else style["color"],
        label=None if hollow else short(label),
    )


def whiskers(
    axes: "Axes", xs: Sequence[float], results: Sequence[Result], quantity: Quantity, colour: str
) -> None:
    """The 95% intervals, as one path whose pieces are parted by points that are no numbers."""
    gap = float("nan")
    points: list[tuple[float, float]] = []
    for x, result in zip(xs, results, strict=True):
        if interval := interval_of(result, quantity.metric):
            # Wild launches have intervals over hundreds of decades, which no axis can show.
            low = max(interval.low, interval.middle / 1e3) / quantity.scale
            high = min(interval.high, interval.middle * 1e3) / quantity.scale
            points += [(x, low), (x, high), (gap, gap)]
    if points:
        style: dict[str, Any] = {"linewidth": 1.1, "marker": "_", "markersize": 5, "zorder": 1.5}
        axes.plot(*zip(*points, strict=True), color=colour, **style)


def highest(group: CaseGroup, quantities: Sequence[Quantity]) -> float:
    """The largest value drawn. Whiskers do not count: those of wild launches may leave the panel
    rather than flatten the rest."""
    values = [
        max(value, *_few_launches(result, quantity), 0.0) / quantity.scale
        for result in group.results
        for quantity in quantities
        if (value := result.value(quantity.metric)) is not None
    ]
    return max(values) or 1.0


def device_axis(axes: "Axes", group: CaseGroup) -> None:
    """The horizontal axis of numbers of devices."""
    counts = group.counts
    axes.set_xscale("log", base=2)
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    shown = evenly(counts, _MOST_TICKS)
    axes.set_xticks(shown, [f"{count:,}" for count in shown])
    axes.xaxis.set_minor_locator(no_ticks())
    axes.set_xlabel("CPU ranks" if group.results[0].case.device == "cpu" else "GPUs")


def no_ticks() -> Any:
    """For an axis whose every tick is given."""
    from matplotlib.ticker import NullLocator

    return NullLocator()


def titled(axes: "Axes", title: str) -> None:
    """The title, on as many lines as it takes. The legend is the sheet's affair (canvas.py)."""
    axes.set_title(title_text(title))


def devices(result: Result) -> str:
    """As in `4 GPUs` or `1 CPU rank`."""
    gpus = result.case.gpus
    kind = "CPU rank" if result.case.device == "cpu" else "GPU"
    return counted(gpus, kind)


def evenly(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, first and last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return [values[math.floor(place * last / (most - 1) + 0.5)] for place in range(most)]


def _launch_dots(
    axes: "Axes", xs: Sequence[float], results: Sequence[Result], quantity: Quantity, colour: str
) -> None:
    """The launches as small dots, a little to the right of their median."""
    dots = [
        (x * 1.035, value / quantity.scale)
        for x, result in zip(xs, results, strict=True)
        for value in _few_launches(result, quantity)
    ]
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", color=colour, markersize=2.6, alpha=0.5)


def disturbed_dots(
    axes: "Axes", xs: Sequence[float], results: Sequence[Result], quantity: Quantity
) -> None:
    """The disturbed launches as grey crosses: they count for nothing that is drawn."""
    crosses = [
        (x, value / quantity.scale)
        for x, result in zip(xs, results, strict=True)
        for value in evenly(_disturbed_values(result.launches(quantity.metric)), _MOST_DOTS)
    ]
    if crosses:
        style: dict[str, Any] = {"markersize": 4, "zorder": 1.2}
        label = None if DISTURBED in axes.get_legend_handles_labels()[1] else DISTURBED
        axes.plot(*zip(*crosses, strict=True), "x", color=GREY, label=label, **style)


def _disturbed_values(launches: Launches) -> list[float]:
    pairs = zip(launches.values, launches.reasons, strict=False)
    return [value for value, reason in pairs if reason is not None]


def _few_launches(result: Result, quantity: Quantity) -> list[float]:
    return evenly(result.launches(quantity.metric).undisturbed, _MOST_DOTS)


def _dodge(study: Study, label: str) -> float:
    """A small shift on the logarithmic axis, so that whiskers of equal values do not hide each
    other."""
    count = min(len(study.series), _MOST_DODGED)
    place = study.series.index(label) % _MOST_DODGED
    return float(1 + 0.03 * (place - (count - 1) / 2))
