"""Which plots a report has, and how many panels of each: bounded, so that a study of any size is
drawn in seconds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from pytest_dnnbench.report import panels
from pytest_dnnbench.report.canvas import Draw
from pytest_dnnbench.report.panels import MIB, Quantity
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Group, Study

# Panels drawn of one plot; what is beyond stands in the tables, and the plot says so.
MOST_PANELS = 6


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: what it shows, and what draws it."""

    title: str
    draw: Draw


@dataclass(frozen=True, slots=True)
class Plot:
    """Panels that belong together. `key` names files; `note` says what is not drawn, and why."""

    key: str
    title: str
    about: str
    panels: tuple[Panel, ...]
    note: str = ""


def plots(study: Study) -> list[Plot]:
    """The plots of a study, those without a single panel too: their note says what they would
    need."""
    return [
        _throughput(study),
        _speedup(study),
        _memory(study),
        _step_times(study),
        _history(study),
    ]


def _throughput(study: Study) -> Plot:
    return _plot(
        "throughput",
        "Throughput",
        "Images per second against the number of devices.",
        [
            Panel(
                group.label,
                partial(panels.scaling, study, group, (panels.THROUGHPUT,), "throughput [img/s]"),
            )
            for group in _having(study.groups, "throughput")
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
        "Not drawn: speed-up takes the framework single in the session and more than one number of devices.",
    )


def _memory(study: Study) -> Plot:
    allocator = (
        Quantity("allocated_peak_bytes", "allocated", MIB),
        Quantity("cached_peak_bytes", "cached", MIB, hollow=True),
    )
    resident = (Quantity("resident_peak_bytes", scale=MIB),)
    found = []
    for group in study.groups:
        for chosen, label in (
            (allocator, "peak memory per GPU [MiB]"),
            (resident, "peak resident per rank [MiB]"),
        ):
            if list(_having([group], chosen[0].metric)):
                found.append(
                    Panel(group.label, partial(panels.scaling, study, group, chosen, label))
                )
                break
    about = "Peak inside the timed window, of the rank that has most. GPUs: allocated, and cached by the allocator."
    return _plot("memory", "Memory", about, found, "No case has a memory figure.")


def _step_times(study: Study) -> Plot:
    found = []
    for group in study.groups:
        counts = [
            result.gpus
            for result in group.results
            if any(time > 0 for launch in result.step_time_s for time in launch)
        ]
        if counts:
            gpus = max(counts)
            found.append(Panel(group.label, partial(panels.step_times, study, group, gpus)))
    about = (
        "Every dot is a step, every column a launch in fresh processes, the bar its median; on the largest number of"
        f" devices. Of launches with more than {panels.MOST_SAMPLES} steps, evenly chosen ones."
    )
    return _plot("steps", "Step times", about, found, "No case has kept the time of its steps.")


def _history(study: Study) -> Plot:
    kept = []
    for results in study.history.values():
        shown = [result for result in results if panels.drawable(result, "throughput")]
        if len({result.run for result in shown}) > 1:
            kept.append(shown)
    kept.sort(key=_interest)
    return _plot(
        "history",
        "History",
        "Throughput over stored sessions, oldest first; the marker is the verdict of that session. Regressed cases"
        " first, then those that changed most.",
        [Panel(results[-1].name, partial(panels.history, study.runs, results)) for results in kept],
        "Not drawn: a history takes two stored sessions or more of a case.",
    )


def _interest(results: Sequence[Result]) -> tuple[bool, float]:
    first, last = (results[place].metrics["throughput"].value for place in (0, -1))
    return results[-1].status != "regressed", -abs(last / first - 1)


def _plot(key: str, title: str, about: str, found: list[Panel], nothing: str) -> Plot:
    note = "" if found else nothing
    if len(found) > MOST_PANELS:
        note = f"{MOST_PANELS} of {len(found)} panels are drawn; the tables hold all cases. Choose with --models."
    return Plot(key, title, about, tuple(found[:MOST_PANELS]), note)


def _having(groups: Iterable[Group], metric: str) -> Iterable[Group]:
    return (
        group
        for group in groups
        if any(panels.drawable(result, metric) for result in group.results)
    )
