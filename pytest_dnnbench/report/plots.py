"""Which plots a report has, and how many panels of each: bounded, so that a study of any size is
drawn in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pytest_dnnbench.metrics import SMALLEST, THROUGHPUT, metric_row
from pytest_dnnbench.report import panels
from pytest_dnnbench.report.axes import Quantity, drawable
from pytest_dnnbench.report.breakdowns import broken_down
from pytest_dnnbench.report.canvas import PANEL_INCHES, WIDE_INCHES, Draw
from pytest_dnnbench.report.figures import MIB
from pytest_dnnbench.report.predictions import predicted
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.standings import standings
from pytest_dnnbench.report.study import CaseGroup, Study
from pytest_dnnbench.report.verdicts import deciding_metric
from pytest_dnnbench.report.winners import contests

LEADS = "leads"
"""The key of the chart that comes first."""

MOST_BARS = 12
"""Cases of one panel of breakdowns."""

MOST_PANELS = 6
"""Panels drawn of one plot. The tables hold all cases, and the plot says so."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: what it shows, and what draws it."""

    title: str
    draw: Draw


@dataclass(frozen=True, slots=True)
class Plot:
    """Panels that belong together. `key` names files; `note` says what is not drawn, and why;
    `width` is a panel's, in inches."""

    key: str
    title: str
    about: str
    panels: tuple[Panel, ...]
    note: str = ""
    width: float = PANEL_INCHES[0]


def plots(study: Study) -> list[Plot]:
    """The plots of a study: the standing of the cases, then throughput. The note of a plot without
    a panel says what it would need."""
    return [
        _leads(study),
        _throughput(study),
        _speedup(study),
        _memory(study),
        _step_times(study),
        *_breakdown(study),
        *_predictions(study),
        _history(study),
    ]


def _leads(study: Study) -> Plot:
    outcomes = contests(study)
    drawn = standings(outcomes, study)
    compared = sum(outcome.lead is not None for outcome in outcomes)
    return _plot(
        LEADS,
        "Who is the fastest",
        "Each row is a comparison: every case in percent of its fastest one. Where an interval"
        " reaches 100%, nobody is clearly ahead."
        + (
            f" Drawn are {len(drawn)} of {compared}, those on most devices first."
            if len(drawn) < compared
            else ""
        ),
        [Panel("throughput in percent of the fastest", partial(panels.leads, drawn))]
        if drawn
        else [],
        "Not drawn: a comparison takes two cases of one model, phase and number of devices, with"
        " two undisturbed launches or more each.",
        width=WIDE_INCHES,
    )


def _throughput(study: Study) -> Plot:
    return _plot(
        "throughput",
        "Throughput",
        "Throughput against the number of devices.",
        [
            _scaling(study, group, (Quantity(THROUGHPUT),), f"throughput [{group.throughput_unit}]")
            for group in _having(study.groups, THROUGHPUT)
        ],
        "No case has a throughput.",
    )


def _speedup(study: Study) -> Plot:
    groups = [group for group in _having(study.groups, "speedup") if len(group.counts) > 1]
    return _plot(
        "speedup",
        "Speed-up",
        "Throughput over that of single on one device, round by round; both axes are logarithmic.",
        [Panel(group.label, partial(panels.speedup, study, group)) for group in groups],
        "Not drawn: speed-up takes the framework single in the session and more than one number of"
        " devices.",
    )


_ALLOCATOR = (
    Quantity("allocated_peak_bytes", "allocated", MIB),
    Quantity("cached_peak_bytes", "cached", MIB, hollow=True),
)
_RESIDENT = (Quantity("resident_peak_bytes", scale=MIB),)


def _memory(study: Study) -> Plot:
    drawn = []
    for group in study.groups:
        if _having([group], "allocated_peak_bytes"):
            drawn.append(_scaling(study, group, _ALLOCATOR, "peak memory per GPU [MiB]"))
        elif _having([group], "resident_peak_bytes"):
            drawn.append(_scaling(study, group, _RESIDENT, "peak resident per rank [MiB]"))
    return _plot(
        "memory",
        "Memory",
        "Peak inside the timed window, of the rank that has most. GPUs: allocated, and cached by"
        " the allocator.",
        drawn,
        "No case has a memory figure.",
    )


def _step_times(study: Study) -> Plot:
    drawn = []
    for group in study.groups:
        counts = [result.case.gpus for result in group.results if _has_steps(result)]
        if counts:
            draw = partial(panels.step_times, study, group, max(counts))
            drawn.append(Panel(group.label, draw))
    return _plot(
        "steps",
        "Step times",
        "Every dot is a step, every column a launch in fresh processes, the bar its median; on the"
        f" largest number of devices. Of launches with more than {panels.MOST_SAMPLES} steps,"
        " evenly chosen ones.",
        drawn,
        "No case has kept the time of its steps.",
    )


def _breakdown(study: Study) -> list[Plot]:
    """A plot where steps were profiled; none elsewhere, for few sessions do."""
    groups = [(group, broken_down(group.results)) for group in study.groups]
    drawn = [
        Panel(
            group.label,
            partial(panels.breakdown, study, [result for result, _ in entries][:MOST_BARS]),
        )
        for group, entries in groups
        if entries
    ]
    if not drawn:
        return []
    return [
        _plot(
            "breakdown",
            "Where a step's time goes",
            "From steps under torch's profiler, after the timed ones and slower than they are."
            " Exposed communication overlaps no compute of its rank, and includes waiting for other"
            " ranks.",
            drawn,
            "",
            width=WIDE_INCHES,
        )
    ]


def _predictions(study: Study) -> list[Plot]:
    """A plot where steps were predicted; none elsewhere, for few sessions do."""
    entries = [
        (result, entry)
        for result, entry in predicted(study)
        if all(
            (each or 0.0) >= SMALLEST for each in (entry.step_time_s, entry.measured_step_time_s)
        )
    ]
    if not entries:
        return []
    return [
        _plot(
            "predictions",
            "Predicted and measured steps",
            "Each mark is a case: what its step was predicted to take, from a profile and the"
            " collectives of its ranks, and what it took. Above the line it took longer.",
            [Panel("measured against predicted", partial(panels.predictions, study, entries))],
            "",
        )
    ]


def _history(study: Study) -> Plot:
    histories: list[tuple[str, list[Result]]] = []
    for results in study.history.values():
        metric = metric_of_history(results[-1])
        shown = [result for result in results if drawable(result, metric)]
        if len({result.run for result in shown}) > 1:
            histories.append((metric, shown))
    histories.sort(key=_interest)
    return _plot(
        "history",
        "History",
        "A case over stored sessions, oldest first: its throughput or, where another metric gave"
        " the newest session its verdict, that one. The marker is the verdict on this metric in"
        " that session; a dotted line stands where the level changed. Regressed cases first, then"
        " those that changed most.",
        [
            Panel(
                f"{results[-1].name}, {metric_row(metric).title}",
                partial(panels.history, study.runs, results, metric),
            )
            for metric, results in histories
        ],
        "Not drawn: a history takes two stored sessions or more of a case.",
    )


def metric_of_history(newest: Result) -> str:
    """The metric that a case's history shows."""
    verdict = newest.record.verdict
    metric = deciding_metric(verdict) if verdict.status == "regressed" else None
    return metric if metric in newest.record.metrics else THROUGHPUT


def _interest(history: tuple[str, Sequence[Result]]) -> tuple[bool, float]:
    """Sorts regressed cases first, then those that changed most."""
    metric, results = history
    first, last = (result.value(metric) or 1.0 for result in (results[0], results[-1]))
    return results[-1].status != "regressed", -abs(last / first - 1)


def _plot(
    key: str,
    title: str,
    about: str,
    drawn: Sequence[Panel],
    nothing: str,
    *,
    width: float = PANEL_INCHES[0],
) -> Plot:
    note = "" if drawn else nothing
    if len(drawn) > MOST_PANELS:
        note = (
            f"{MOST_PANELS} of {len(drawn)} panels are drawn; the tables hold all cases. Choose"
            " with --models."
        )
    return Plot(key, title, about, tuple(drawn[:MOST_PANELS]), note, width)


def _scaling(study: Study, group: CaseGroup, quantities: Sequence[Quantity], y_label: str) -> Panel:
    return Panel(group.label, partial(panels.scaling, study, group, quantities, y_label))


def _has_steps(result: Result) -> bool:
    return any(time > 0 for launch in result.step_time_s for time in launch)


def _having(groups: Sequence[CaseGroup], metric: str) -> list[CaseGroup]:
    """The groups in which a case has the metric."""
    return [group for group in groups if any(drawable(result, metric) for result in group.results)]
