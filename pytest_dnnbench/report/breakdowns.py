"""Breakdowns of steps as text: a small table under the terminal's."""

from collections.abc import Iterable

from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.text import cut_middle, pad, width_of
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry
from pytest_dnnbench.step_parts import PARTS, Part

HEADS: dict[Part, str] = {
    "compute": "compute",
    "communication": "comm.",
    "data": "data",
    "optimizer": "optim.",
    "bubble": "bubble",
    "idle": "idle",
}
"""Short words for the parts; `PARTS` has the full ones."""

COLOURS: dict[Part, str] = {
    "compute": "#0072B2",
    "communication": "#D55E00",
    "data": "#E69F00",
    "optimizer": "#009E73",
    "bubble": "#CC79A7",
    "idle": "#bfc5cc",
}

_LEAST_NAME = 12


def broken_down(results: Iterable[Result]) -> list[tuple[Result, BreakdownEntry]]:
    """The cases whose steps were profiled."""
    return [(each, each.record.breakdown) for each in results if each.record.breakdown]


def breakdown_lines(study: Study, width: int) -> list[str]:
    """Lines of at most `width` columns: a row per case with the shares of its step; none without a
    breakdown."""
    entries = _named(study)
    if not entries:
        return []
    shown = [part for part in PARTS if any(entry.shares.get(part, 0.0) for _, entry in entries)]
    heads = [*(HEADS[part] for part in shown), "profiled"]
    widths = [max(len(head), 5) for head in heads]
    room = max(width - sum(widths) - 2 * len(widths) - 2, _LEAST_NAME)
    first = min(room, max(map(width_of, ["case", *(name for name, _ in entries)])))
    lines = [_line("case", heads, first, widths)]
    for name, entry in entries:
        cells = [f"{entry.shares.get(part, 0.0):.0%}" for part in shown]
        lines.append(_line(name, [*cells, f"x{entry.slowdown:.2f}"], first, widths))
    if "communication" in shown:
        lines.append("comm.: exchange that overlaps no compute; waiting for other ranks included")
    lines.append("profiled: the time of a profiled step over that of a timed one")
    lines += [
        f"{name}: parts are {entry.parts_over_step:.0%} of the step"
        for name, entry in entries
        if not entry.adds_up
    ]
    return ["where a step's time goes", *(cut_middle(f"  {line}", width) for line in lines), ""]


def _named(study: Study) -> list[tuple[str, BreakdownEntry]]:
    """The breakdowns of a study with the names of their rows; that of side B follows its case's."""
    entries = []
    for result in study.measured:
        other, name = result.record.against, _name(study, result)
        if own := result.record.breakdown:
            entries.append((name, own))
        if other is not None and other.breakdown:
            entries.append((f"{name}, side B", other.breakdown))
    return entries


def _name(study: Study, result: Result) -> str:
    if function := result.record.function:
        name, arguments = function.collective or function.name, function.arguments_text
        return ", ".join(filter(None, (function.framework, name, str(function.gpus), arguments)))
    case = result.case
    return f"{study.label(result)}, {case.model}, {case.gpus}, {case.phase}"


def _line(name: str, cells: list[str], first: int, widths: list[int]) -> str:
    columns = [pad(cell, width, left=True) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([pad(cut_middle(name, first), first), *columns])
