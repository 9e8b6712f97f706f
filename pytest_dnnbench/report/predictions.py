"""Predicted and measured steps as text: a small table under the terminal's, and lines for a case's
details."""

import statistics

from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.report.figures import NOTHING, amount
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.text import cut_middle, pad, width_of
from pytest_dnnbench.results.records.schema import PredictionEntry

HEADS = ("predicted", "measured", "error", "exposed")

Predicted = tuple[Result, PredictionEntry]
"""A case with its prediction."""

_LEAST_NAME = 12


def predicted(study: Study) -> list[Predicted]:
    """The cases with a prediction, or with a reason why there is none. None where nobody asked and
    the plans of pipelines predict all the same: a line of their own says what."""
    entries = [(each, each.record.prediction) for each in study.latest]
    given = [(result, entry) for result, entry in entries if entry is not None]
    return given if any(entry.asked for _, entry in given) else []


def prediction_lines(study: Study, width: int) -> list[str]:
    """Lines of at most `width` columns: a row per case, the errors together, and what was not
    predicted."""
    entries = predicted(study)
    if not entries:
        return []
    rows = [
        (_name(study, result), _cells(result, entry))
        for result, entry in entries
        if not entry.refused
    ]
    lines = _table(rows, width - 2) if rows else []
    errors = [abs(entry.error) for _, entry in entries if entry.error is not None]
    if len(errors) > 1:
        lines.append(
            f"errors: median {statistics.median(errors):.0%}, largest {max(errors):.0%} of the"
            " predicted time"
        )
    if any(entry.exposed_s is not None for _, entry in entries):
        lines.append("exposed: share of the predicted step in which ranks only exchange")
    if any(result.record.disturbed for result, entry in entries if not entry.refused):
        lines.append("! every launch of the case was disturbed")
    lines += [
        f"not predicted: {_name(study, result)}: {one_line(entry.refused)}"
        for result, entry in entries
        if entry.refused
    ]
    return ["predicted steps", *(cut_middle(f"  {line}", width) for line in lines), ""]


def prediction_details(entry: PredictionEntry) -> list[str]:
    """What a case's step was predicted to take, and from what."""
    if entry.refused:
        return [f"not predicted: {one_line(entry.refused)}"]
    parts = {"compute": entry.compute_s, "exposed": entry.exposed_s, "update": entry.update_s}
    shares = [f"{name} {amount(value, 's')}" for name, value in parts.items() if value is not None]
    lines = [
        f"predicted step time {amount(entry.step_time_s, 's')}"
        + (f" ({', '.join(shares)})" if shares else ""),
        f"measured step time {amount(entry.measured_step_time_s, 's')}, {_error(entry)}",
    ]
    if entry.memory_bytes is not None:
        lines.append(f"predicted memory of a rank {amount(entry.memory_bytes, 'B')}")
    lines += [
        f"{name.replace('_', ' ')} {amount(cost.fixed_s, 's')} and {amount(cost.bytes_s, 'B/s')}"
        for name, cost in entry.collectives.items()
    ]
    lines += runtime_lines(entry)
    if entry.profile_parts_over_whole is not None:
        lines.append(f"profile parts over whole {entry.profile_parts_over_whole:.3g}")
    return lines


def runtime_lines(entry: PredictionEntry | None) -> list[str]:
    """What the runtime of torch's schedules takes itself, where it was measured."""
    if entry is None or entry.runtime_s is None:
        return []
    return [f"of each predicted pass the runtime itself {amount(entry.runtime_s, 's')}"]


def _table(rows: list[tuple[str, list[str]]], width: int) -> list[str]:
    widths = [max(len(head), *(width_of(cells[n]) for _, cells in rows)) for n, head in _heads()]
    room = max(width - sum(widths) - 2 * len(widths), _LEAST_NAME)
    first = min(room, max(map(width_of, ["case", *(name for name, _ in rows)])))
    return [_line(name, cells, first, widths) for name, cells in [("case", [*HEADS]), *rows]]


def _heads() -> list[tuple[int, str]]:
    return list(enumerate(HEADS))


def _line(name: str, cells: list[str], first: int, widths: list[int]) -> str:
    columns = [pad(cell, width, left=True) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([pad(cut_middle(name, first), first), *columns])


def _cells(result: Result, entry: PredictionEntry) -> list[str]:
    exposed = NOTHING
    mark = " !" if result.record.disturbed else ""
    if entry.exposed_s is not None and entry.step_time_s:
        exposed = f"{entry.exposed_s / entry.step_time_s:.0%}"
    return [
        amount(entry.step_time_s, "s"),
        amount(entry.measured_step_time_s, "s") + mark,
        _error(entry),
        exposed,
    ]


def _error(entry: PredictionEntry) -> str:
    return NOTHING if entry.error is None else f"{entry.error:+.0%}"


def _name(study: Study, result: Result) -> str:
    case = result.case
    return f"{study.label(result)}, {case.model}, {case.gpus}"
