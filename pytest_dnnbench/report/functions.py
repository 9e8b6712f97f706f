"""The table of timed functions, the same for the terminal, Markdown, CSV and the page. A function
has no model, phase or batch, so it stands in no other table and in no plot.

Collectives show what those who measure them look for: size, time, algorithm and bus bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_dnnbench.function_case import GROUPS, FunctionCase
from pytest_dnnbench.metrics import ALGORITHM_BANDWIDTH, BUS_BANDWIDTH, THROUGHPUT
from pytest_dnnbench.report.figures import NOTHING, amount, bandwidth, range_text
from pytest_dnnbench.report.rows import half_width
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.text import cut_middle, pad, width_of
from pytest_dnnbench.report.verdicts import verdict_text

_SIZES = ("GiB", "MiB", "KiB")
_MOST_NAME = 40
_LEAST_GAP, _GAP = 1, 2
_DROPPED = ("±", "algbw GB/s", "in", "rate", "verdict")
"""Heads of the columns that a narrow terminal does without, the first one first."""


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """The heads of the columns that say something, and a row of texts per function. `numbers`: of
    each column, whether it is set to the right. `statuses`: of each row, its verdict's."""

    heads: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    statuses: tuple[str, ...]

    def lines(self, width: int) -> list[str]:
        """Head and rows as lines of a terminal. Where it is too narrow the table gives up half of
        the gaps, then columns (_DROPPED), then the middle of its lines."""
        columns = [*zip(self.heads, *self.rows, strict=True)]
        widths = {column[0]: max(map(width_of, column)) for column in columns}
        dropped = [head for head in _DROPPED if head in widths]
        gap = _GAP
        while sum(widths.values()) + gap * (len(widths) - 1) > width and (dropped or gap == _GAP):
            if gap == _GAP:
                gap = _LEAST_GAP
            else:
                del widths[dropped.pop(0)]
        shown = [column for column in columns if column[0] in widths]
        lefts = dict(zip(self.heads, self.numbers, strict=True))
        return [
            cut_middle(
                (" " * gap)
                .join(
                    pad(text, widths[head], left=lefts[head])
                    for head, text in zip([column[0] for column in shown], row, strict=True)
                )
                .rstrip(),
                width,
            )
            for row in zip(*shown, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    text: Callable[[Result], str]
    is_number: bool = True


def function_table(study: Study) -> FunctionTable | None:
    """The table of a study's functions; None where it has none."""
    results = sorted(study.functions, key=_place)
    if not results:
        return None
    cells = {column.head: [column.text(result) for result in results] for column in _COLUMNS}
    shown = [column for column in _COLUMNS if set(cells[column.head]) - {"", NOTHING}]
    return FunctionTable(
        tuple(column.head for column in shown),
        tuple(column.is_number for column in shown),
        tuple(zip(*(cells[column.head] for column in shown), strict=True)),
        tuple(result.status for result in results),
    )


def function_of(result: Result) -> FunctionCase:
    """The function of a result that is about one."""
    function = result.record.function
    assert function is not None, "asked of such results only"
    return function


def csv_rows(results: Sequence[Result]) -> list[dict[str, object]]:
    """A row of raw values per function; each head ends with the unit of its column."""
    return [
        {
            "function": function_of(result).function,
            "framework": function_of(result).framework,
            "collective": function_of(result).collective,
            "arguments": function_of(result).arguments_text,
            "gpus": function_of(result).gpus,
            "device": function_of(result).device,
            "launches": len(result.record.launches),
            "launches_disturbed": result.disturbed,
            "step_time_s": result.value("step_time_s"),
            "throughput": result.value(THROUGHPUT),
            "throughput_unit": result.throughput_unit,
            "throughput_half_width_fraction": half_width(result),
            "algorithm_bandwidth_bytes_per_s": result.value(ALGORITHM_BANDWIDTH),
            "bus_bandwidth_bytes_per_s": result.value(BUS_BANDWIDTH),
            "verdict": verdict_text(result.record.verdict),
            "test": result.name,
        }
        for result in sorted(results, key=_place)
    ]


def _place(result: Result) -> tuple[object, ...]:
    case = function_of(result)
    # Numbers by size, and before texts, which do not compare with them.
    arguments = [
        (name, isinstance(value, str), value) for name, value in sorted(case.arguments.items())
    ]
    framework = GROUPS.index(case.framework)
    return case.collective or case.function, framework, case.gpus, arguments, result.name


def _name(result: Result) -> str:
    case = function_of(result)
    return cut_middle(case.collective or case.name, _MOST_NAME)


def _arguments(result: Result) -> str:
    return "" if function_of(result).collective else function_of(result).arguments_text


def _size(result: Result) -> str:
    """The size of a collective: its samples per step."""
    if not function_of(result).collective:
        return ""
    size = result.record.run.samples_per_update
    for power, unit in zip((3, 2, 1), _SIZES, strict=True):
        whole, rest = divmod(size, 1 << 10 * power)
        if whole and not rest:
            return f"{whole:,} {unit}"
    return f"{size:,} B"


def _devices(result: Result) -> str:
    return f"{function_of(result).gpus}{'*' if result.record.run.oversubscribed else ''}"


def _figure(metric: str, form: Callable[[float], str]) -> Callable[[Result], str]:
    def text(result: Result) -> str:
        value = result.value(metric)
        return NOTHING if value is None else form(value)

    return text


def _time(result: Result) -> str:
    """The step time; in brackets the range of all launches where too few were undisturbed, and then
    the other columns have no figure."""
    if result.launches("step_time_s").doubt:
        return range_text(result, "step_time_s", lambda value: amount(value, "s"))
    return amount(result.value("step_time_s"), "s")


def _rate(result: Result) -> str:
    if function_of(result).collective:
        return NOTHING  # its algorithm bandwidth
    return _figure(THROUGHPUT, lambda value: amount(value, result.throughput_unit))(result)


def _half_width(result: Result) -> str:
    fraction = half_width(result)
    if fraction is None:
        return NOTHING
    return f"{fraction:.1%}" if fraction < 1 else ">100%"


_COLUMNS = (
    _Column("function", _name, is_number=False),
    _Column("in", lambda result: function_of(result).framework, is_number=False),
    _Column("arguments", _arguments, is_number=False),
    _Column("size", _size),
    _Column("GPUs", _devices),
    _Column("time", _time),
    _Column("rate", _rate),
    _Column("algbw GB/s", _figure(ALGORITHM_BANDWIDTH, bandwidth)),
    _Column("busbw GB/s", _figure(BUS_BANDWIDTH, bandwidth)),
    _Column("±", _half_width),
    _Column("verdict", lambda result: verdict_text(result.record.verdict) or "", is_number=False),
)
