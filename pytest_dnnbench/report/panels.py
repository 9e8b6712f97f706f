"""What each kind of panel draws, on axes that it is given: values against GPUs, samples of
launches, a history.

Whiskers are 95% intervals over launches; the small dots beside a line are the launches
themselves. The axes come last, so that all else can be bound beforehand.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_dnnbench.report.canvas import FAINT, INK, look, short
from pytest_dnnbench.report.runs import Figure, Result, Run
from pytest_dnnbench.report.spread import interval
from pytest_dnnbench.report.study import Group, Study, unlike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Samples drawn of one launch, evenly chosen where there are more.
MOST_SAMPLES = 60
MIB = 2.0**20

T = TypeVar("T")

_VERDICTS = {  # marker, colour, filled
    "ok": ("o", "#0072B2", True),
    "improved": ("^", "#009E73", True),
    "regressed": ("v", "#D55E00", True),
    "noisy": ("D", "#E69F00", False),
    "incomparable": ("X", "#666666", False),
    "no-baseline": ("o", "#666666", False),
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A metric as it is drawn: in which unit, how marked."""

    metric: str
    label: str = ""
    scale: float = 1.0
    hollow: bool = False


THROUGHPUT = Quantity("throughput")


def drawable(result: Result, metric: str) -> bool:
    """The case has the metric, and it is above zero as every measured one is."""
    return (result.value(metric) or 0) > 0


def scaling(
    study: Study, group: Group, quantities: Sequence[Quantity], y_label: str, axes: "Axes"
) -> None:
    """Values against GPUs, a line per series; the second quantity, if any, is hollow and dashed."""
    for quantity in quantities:
        for place, label, results in _series(study, group):
            _line(axes, place, label, results, quantity, _dodge(study, label))
    for quantity in quantities if len(quantities) > 1 else ():
        fill, line = ("white", "--") if quantity.hollow else ("#8a929b", "-")
        axes.plot(
            [], [], line, color="#8a929b", marker="o", markerfacecolor=fill, label=quantity.label
        )
    _gpu_axis(axes, group)
    axes.set_ylim(0, 1.15 * _highest(group, quantities))
    axes.set_ylabel(y_label)
    _finish(axes, group)


def speedup(study: Study, group: Group, axes: "Axes") -> None:
    """Speed-up against GPUs on logarithmic axes, over the line of the ideal."""
    counts = group.counts
    axes.plot(
        counts, counts, color="#9aa3ad", linestyle=":", linewidth=1.2, label="ideal", zorder=1
    )
    for place, label, results in _series(study, group):
        _line(axes, place, label, results, Quantity("speedup"), _dodge(study, label))
    _gpu_axis(axes, group)
    axes.set_yscale("log", base=2)
    drawn = [
        *counts,
        *(value for result in group.results if (value := result.value("speedup") or 0) > 0),
    ]
    axes.set_ylim(min(drawn) / 1.5, max(drawn) * 1.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.yaxis.set_minor_locator(_no_ticks())
    axes.set_ylabel("speed-up over single")
    _finish(axes, group)


def step_times(study: Study, group: Group, gpus: int, axes: "Axes") -> None:
    """Every step's time, a column of dots per launch; the bar is the launch's median."""
    ticks: list[tuple[int, str]] = []
    bars: list[tuple[float, float, float]] = []
    for number, label, results in _series(study, group):
        own = (launch for result in results if result.gpus == gpus for launch in result.step_time_s)
        launches = [times for launch in own if (times := [time for time in launch if time > 0])]
        if not launches:
            continue
        place = len(ticks)
        style = look(number)
        dots: list[tuple[float, float]] = []
        for column, launch in enumerate(launches):
            x = place + (column - (len(launches) - 1) / 2) * 0.8 / max(len(launches), 3)
            width = 0.3 / max(len(launches), 3)
            shown = _evenly(launch, MOST_SAMPLES)
            dots += [
                (x + width * (7 * step % 11 / 5 - 1), 1e3 * time) for step, time in enumerate(shown)
            ]
            bars += [(x - width, x + width, 1e3 * statistics.median(launch))]
        axes.plot(*zip(*dots, strict=True), ".", color=style["color"], markersize=3.2, alpha=0.55)
        ticks.append((place, short(label, 18)))
    axes.hlines(
        [y for _, _, y in bars],
        [low for low, _, _ in bars],
        [high for _, high, _ in bars],
        INK,
        linewidth=1.4,
    )
    axes.set_xticks(
        [place for place, _ in ticks],
        [name for _, name in ticks],
        rotation=20 if len(ticks) > 4 else 0,
    )
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_ylabel("step time [ms]")
    axes.grid(visible=False, axis="x")
    axes.set_title(short(f"{group.label}, {_devices(group.results[0], gpus)}", 44))


def history(runs: Sequence[Run], results: Sequence[Result], axes: "Axes") -> None:
    """Throughput of one case over stored sessions; the marker tells the verdict, a grey one another
    environment."""
    newest = results[-1]
    figures = [result.metrics[THROUGHPUT.metric] for result in results]
    values = [figure.value for figure in figures]
    axes.plot(range(len(results)), values, color=FAINT, zorder=1)
    _whiskers(axes, range(len(results)), figures, THROUGHPUT, "#9aa3ad")
    told = set()
    for place, result in enumerate(results):
        marker, colour, filled = _VERDICTS.get(result.status, _VERDICTS["no-baseline"])
        foreign = bool(unlike(result, newest))
        colour = "#b6bcc4" if foreign else colour
        label = "other environment" if foreign else result.status
        axes.plot(
            [place],
            [values[place]],
            marker,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markersize=6.5,
            label=None if label in told else short(label),
        )
        told.add(label)
    shown = _evenly(list(range(len(results))), 5)
    axes.set_xticks(shown, [_day(runs[results[place].run]) for place in shown])
    axes.set_ylim(0.9 * min(values), 1.1 * max(values))
    axes.set_ylabel("throughput [img/s]")
    axes.set_title(
        short(
            f"{newest.framework}, {newest.model}, {newest.phase}, {_devices(newest, newest.gpus)}",
            44,
        )
    )
    _legend(axes)


def _line(
    axes: "Axes", place: int, label: str, results: list[Result], quantity: Quantity, dodge: float
) -> None:
    found = sorted(
        (
            (result.gpus, result.metrics[quantity.metric])
            for result in results
            if drawable(result, quantity.metric)
        ),
        key=lambda pair: pair[0],
    )
    if not found:
        return
    style = look(place)
    xs = [gpus * dodge for gpus, _ in found]
    figures = [figure for _, figure in found]
    _whiskers(axes, xs, figures, quantity, style["color"])
    dots = [
        (x * 1.035, value / quantity.scale)
        for x, one in zip(xs, figures, strict=True)
        for value in _few(one)
    ]
    axes.plot(
        *zip(*dots, strict=True), ".", color=style["color"], markersize=2.6, alpha=0.5
    ) if dots else None
    axes.plot(
        xs,
        [figure.value / quantity.scale for figure in figures],
        **style,
        linestyle="--" if quantity.hollow else "-",
        markerfacecolor="white" if quantity.hollow else style["color"],
        label=None if quantity.hollow else short(label),
    )


def _highest(group: Group, quantities: Sequence[Quantity]) -> float:
    """The largest value drawn; the whisker of a few wild launches may leave the panel rather than
    flatten the rest."""
    figures = [
        (result.metrics.get(one.metric), one.scale)
        for result in group.results
        for one in quantities
    ]
    values = [max(one.value, *_few(one), 0.0) / scale for one, scale in figures if one]
    return max(values) or 1.0


def _few(figure: Figure) -> list[float]:
    return _evenly(figure.per_launch, 20)


def _whiskers(
    axes: "Axes", xs: Sequence[float], figures: Sequence[Figure], quantity: Quantity, colour: str
) -> None:
    """One path for all of them, its pieces parted by points that are no numbers."""
    gap = float("nan")
    points: list[tuple[float, float]] = []
    for x, figure in zip(xs, figures, strict=True):
        if bounds := interval(figure.per_launch, quantity.metric):
            low, high = max(bounds.low, bounds.middle / 1e3), min(bounds.high, bounds.middle * 1e3)
            points += [(x, low / quantity.scale), (x, high / quantity.scale), (gap, gap)]
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=1.1,
            marker="_",
            markersize=5,
            zorder=1.5,
        )


def _series(study: Study, group: Group) -> list[tuple[int, str, list[Result]]]:
    """Place in the study, label and results of each series of a group."""
    members: dict[str, list[Result]] = {}
    for result in group.results:
        members.setdefault(study.label(result), []).append(result)
    return [
        (place, label, members[label])
        for place, label in enumerate(study.series)
        if label in members
    ]


def _dodge(study: Study, label: str) -> float:
    """A small shift on the logarithmic axis, so that whiskers of equal values do not hide each
    other."""
    count = min(len(study.series), 8)
    return float(1 + 0.03 * (study.series.index(label) % 8 - (count - 1) / 2))


def _gpu_axis(axes: "Axes", group: Group) -> None:
    counts = group.counts
    axes.set_xscale("log", base=2)
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    shown = counts if len(counts) <= 8 else _evenly(counts, 8)
    axes.set_xticks(shown, [f"{count:,}" for count in shown])
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.set_xlabel("CPU ranks" if group.results[0].case.get("device") == "cpu" else "GPUs")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _finish(axes: "Axes", group: Group) -> None:
    axes.set_title(short(group.label, 44))
    _legend(axes)


def _legend(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[:10], labels[:10], loc="best")


def _devices(result: Result, gpus: int) -> str:
    kind = "CPU rank" if result.case.get("device") == "cpu" else "GPU"
    return f"{gpus:,} {kind}{'s' if gpus > 1 else ''}"


def _day(run: Run) -> str:
    """Month, day and minute of an ISO date, on two lines; the file's name where there is no
    date."""
    date, _, time = run.saved.partition("T")
    return f"{date[5:]}\n{time[:5]}" if time else short(run.source, 12)


def _evenly(values: Sequence[T], most: int) -> list[T]:
    """So many of the values at most, first and last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return [values[math.floor(place * last / (most - 1) + 0.5)] for place in range(most)]
