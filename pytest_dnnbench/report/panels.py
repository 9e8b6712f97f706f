"""What each kind of panel draws, on axes that it is given: values against the number of devices,
step times of launches, a history.

Whiskers are 95% intervals over launches; the small dots beside a line are the launches themselves.
The axes are the last argument, so that the others can be bound beforehand.
"""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.metrics import metric_row
from pytest_dnnbench.report.axes import (
    GREY,
    Quantity,
    device_axis,
    devices,
    disturbed_dots,
    evenly,
    highest,
    line,
    no_ticks,
    series_of,
    titled,
    whiskers,
)
from pytest_dnnbench.report.breakdowns import COLOURS, broken_down
from pytest_dnnbench.report.canvas import FAINT, INK, look, short
from pytest_dnnbench.report.figures import MIB
from pytest_dnnbench.report.history import history as case_history
from pytest_dnnbench.report.predictions import Predicted
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.standings import Standing
from pytest_dnnbench.report.study import CaseGroup, Study, unlike
from pytest_dnnbench.step_parts import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SAMPLES = 60
"""Steps drawn of one launch, evenly chosen where there are more."""

_FEW_POWERS = 4
"""Powers of ten between which an axis has three ticks each."""

_VERDICTS = {  # marker, colour, filled
    "ok": ("o", "#0072B2", True),
    "improved": ("^", "#009E73", True),
    "regressed": ("v", "#D55E00", True),
    "partial": ("o", "#0072B2", False),
    "noisy": ("D", "#E69F00", False),
    "incomparable": ("X", "#666666", False),
    "no-baseline": ("o", "#666666", False),
}


def scaling(
    study: Study, group: CaseGroup, quantities: Sequence[Quantity], y_label: str, axes: "Axes"
) -> None:
    """Values against GPUs, a line per series; the second quantity, if any, is hollow and dashed."""
    for quantity in quantities:
        for series in series_of(study, group):
            line(axes, study, series, quantity)
    for quantity in quantities if len(quantities) > 1 else ():
        fill, dashes = ("white", "--") if quantity.hollow else ("#8a929b", "-")
        axes.plot(  # no point: only the legend's line
            [], [], dashes, color="#8a929b", marker="o", markerfacecolor=fill, label=quantity.label
        )
    device_axis(axes, group)
    axes.set_ylim(0, 1.15 * highest(group, quantities))
    axes.set_ylabel(y_label)
    titled(axes, group.label)


def speedup(study: Study, group: CaseGroup, axes: "Axes") -> None:
    """Speed-up against GPUs on logarithmic axes, over the line of the ideal."""
    counts = group.counts
    axes.plot(counts, counts, color=GREY, linestyle=":", linewidth=1.2, label="ideal", zorder=1)
    for series in series_of(study, group):
        line(axes, study, series, Quantity("speedup"))
    device_axis(axes, group)
    axes.set_yscale("log", base=2)
    values = [result.value("speedup") or 0 for result in group.results]
    drawn = [*counts, *(value for value in values if value > 0)]
    axes.set_ylim(min(drawn) / 1.5, max(drawn) * 1.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.yaxis.set_minor_locator(no_ticks())
    axes.set_ylabel("speed-up over single")
    titled(axes, group.label)


def step_times(study: Study, group: CaseGroup, gpus: int, axes: "Axes") -> None:
    """Every step's time, a column of dots per launch, grey for a disturbed one; the bar is the
    launch's median."""
    labels: list[str] = []
    for label, results in series_of(study, group):
        timed = [
            (times, launch.conditions.disturbed)
            for result in results
            if result.case.gpus == gpus
            for launch in result.record.launches
            if (times := [time for time in launch.step_time_s if time > 0])
        ]
        launches, disturbed = [times for times, _ in timed], [reason for _, reason in timed]
        if launches:
            colours = [
                GREY if reason else look(*study.looks[label])["color"] for reason in disturbed
            ]
            _step_columns(axes, len(labels), launches, colours)
            labels.append(short(label, 18))
    axes.set_xticks(range(len(labels)), labels, rotation=20 if len(labels) > 4 else 0)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel("step time [ms]")
    axes.grid(visible=False, axis="x")
    titled(axes, f"{group.label}, {devices(group.at(gpus)[0])}")


def _step_columns(
    axes: "Axes", place: int, launches: Sequence[Sequence[float]], colours: Sequence[str]
) -> None:
    """The steps of one series around its place on the axis: a column of dots per launch, strewn so
    that equal times do not hide each other, and a bar at each launch's median."""
    share = 1 / max(len(launches), 3)
    half = 0.3 * share
    bars: list[tuple[float, float]] = []
    for column, launch in enumerate(launches):
        x = place + (column - (len(launches) - 1) / 2) * 0.8 * share
        dots: list[tuple[float, float]] = []
        for step, time in enumerate(evenly(launch, MOST_SAMPLES)):
            # 7 and 11 have no common factor: neighbouring steps land apart, the same each time.
            dots.append((x + half * (7 * step % 11 / 5 - 1), 1e3 * time))
        style: dict[str, Any] = {"color": colours[column], "markersize": 3.2, "alpha": 0.55}
        axes.plot(*zip(*dots, strict=True), ".", **style)
        bars.append((x, 1e3 * statistics.median(launch)))
    lows, highs = [x - half for x, _ in bars], [x + half for x, _ in bars]
    axes.hlines([median for _, median in bars], lows, highs, INK, linewidth=1.4)


def history(runs: Sequence[Run], results: Sequence[Result], metric: str, axes: "Axes") -> None:
    """One metric of one case over stored sessions. The marker shows the verdict on this metric; a
    grey one means another environment than the newest session's. An upright line stands before
    the session from which on the level was another (history.py)."""
    newest = results[-1]
    quantity = quantity_of(newest, metric)
    values = [(result.value(metric) or 0.0) / quantity.scale for result in results]
    axes.plot(range(len(results)), values, color=FAINT, zorder=1)
    whiskers(axes, range(len(results)), results, quantity, GREY)
    disturbed_dots(axes, range(len(results)), results, quantity)
    _verdict_marks(axes, values, results, metric)
    _change_lines(results, metric, axes)
    shown = evenly(list(range(len(results))), 5)
    axes.set_xticks(shown, [_day(runs[results[place].run]) for place in shown])
    axes.set_ylim(0.9 * min(values), 1.1 * max(values))
    axes.set_ylabel(quantity.label)
    case = newest.case
    titled(axes, f"{case.model}, {case.framework}, {case.phase}, {devices(newest)}")


def _change_lines(results: Sequence[Result], metric: str, axes: "Axes") -> None:
    places = {result.run: place for place, result in enumerate(results)}
    for number, changed in enumerate(case_history(results, metric).changes):
        label = None if number else "change of the level"
        place = places[changed.after.run] - 0.5
        axes.axvline(place, color=INK, linewidth=1.2, linestyle=":", zorder=1, label=label)


def quantity_of(result: Result, metric: str) -> Quantity:
    """A metric as the axis of a panel that is its alone."""
    entry = result.record.metrics[metric]
    title = metric_row(metric, entry.unit, entry.better).title
    unit, scale = {"B": ("MiB", MIB), "s": ("ms", 1e-3)}.get(entry.unit, (entry.unit, 1.0))
    return Quantity(metric, f"{title} [{unit}]", scale)


def leads(standings: Sequence[Standing], axes: "Axes") -> None:
    """Who wins where: a row per comparison, the clearly or barely fastest case at 100% and the
    others below it, each with the 95% interval of its share."""
    rows = [standing.title for standing in standings]
    apart = min(0.16, 0.8 / max(len(standing.shares) for standing in standings))
    lowest = 1.0
    labelled: set[str] = set()
    for place, standing in enumerate(standings):
        count = len(standing.shares)
        for number, share in enumerate(standing.shares):
            y = place + apart * (number - (count - 1) / 2)
            style = look(share.framework, share.variant)
            if share.low is not None and share.high is not None:
                axes.plot([100 * share.low, 100 * share.high], [y, y], color=style["color"], lw=1.3)
            label = None if share.label in labelled else share.label
            axes.plot([100 * share.middle], [y], linestyle="", label=label, **style)
            labelled.add(share.label)
            lowest = min(lowest, share.low if share.low is not None else share.middle)
    axes.axvline(100, color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.set_yticks(range(len(rows)), [short(row, 36) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(max(100 * lowest - 3, -2), 104)
    axes.set_xlabel("throughput in % of the fastest, with 95% intervals over launches")
    axes.grid(visible=False, axis="y")


def breakdown(study: Study, results: Sequence[Result], axes: "Axes") -> None:
    """A bar per case: the shares of its step by part."""
    entries = broken_down(results)
    lefts = [0.0] * len(entries)
    for part, words in PARTS.items():
        shares = [100 * entry.shares.get(part, 0.0) for _, entry in entries]
        if any(shares):
            axes.barh(range(len(entries)), shares, 0.62, lefts, color=COLOURS[part], label=words)
        lefts = [left + share for left, share in zip(lefts, shares, strict=True)]
    names = [f"{study.label(result)}, {devices(result)}" for result, _ in entries]
    axes.set_yticks(range(len(entries)), [short(name, 36) for name in names])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of a profiled step [%]")
    axes.grid(visible=False, axis="y")
    titled(axes, f"{results[0].case.model}, {results[0].case.phase}")


def predictions(study: Study, entries: Sequence[Predicted], axes: "Axes") -> None:
    """A mark per case: its measured step against the predicted one, with the line on which both are
    the same."""
    drawn = [
        (study.label(result), 1e3 * entry.step_time_s, 1e3 * entry.measured_step_time_s)
        for result, entry in entries
        if entry.step_time_s and entry.measured_step_time_s
    ]
    for series in dict.fromkeys(label for label, _, _ in drawn):
        x = [predicted_ms for label, predicted_ms, _ in drawn if label == series]
        y = [measured_ms for label, _, measured_ms in drawn if label == series]
        axes.plot(x, y, linestyle="", markersize=6, label=series, **look(*study.looks[series]))
    ends = [value for _, *values in drawn for value in values]
    low, high = 0.5 * min(ends), 2 * max(ends)
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = _round_values(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(no_ticks())
    axes.yaxis.set_minor_locator(no_ticks())
    axes.set_xlabel("predicted step [ms]")
    axes.set_ylabel("measured step [ms]")
    titled(axes, "on the dotted line both are the same")


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two values; only the powers where they are far
    apart."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= _FEW_POWERS else (1,)
    values = [step * 10.0**power for power in powers for step in steps]
    return [value for value in values if low <= value <= high]


def _verdict_marks(
    axes: "Axes", values: Sequence[float], results: Sequence[Result], metric: str
) -> None:
    """The marks of the sessions, those of a kind together."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for place, result in enumerate(results):
        status = result.metric_status(metric)
        label = "other environment" if unlike(result, results[-1]) else status
        kinds.setdefault((label, status), []).append(place)
    labelled: set[str] = set()
    for (label, status), places in kinds.items():
        marker, colour, filled = _VERDICTS[status]
        if label != status:
            colour = "#b6bcc4"
        axes.plot(
            places,
            [values[place] for place in places],
            marker,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markersize=6.5,
            label=None if label in labelled else label,
        )
        labelled.add(label)


def _day(run: Run) -> str:
    """Month, day and minute of an ISO date, on two lines; the file's name where there is no
    date."""
    date, _, time = run.saved.partition("T")
    return f"{date[5:]}\n{time[:5]}" if time else short(run.source, 12)
