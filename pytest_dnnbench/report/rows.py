"""The rows and columns of a study's table, the same for the terminal, Markdown, CSV and HTML.

    Study ──sections()──> Section (a group's heading) ──> Row ──Column.text / Column.value──> what a format shows

A `text` is for readers, in the unit of the column's head; a `value` is for machines, in the unit of
its key, or None. How a table is laid out, cut or coloured is the affair of each format (terminal:
table.py).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_dnnbench.report.plans import plan_text
from pytest_dnnbench.report.runs import Result, number
from pytest_dnnbench.report.spread import interval
from pytest_dnnbench.report.study import Group, Study
from pytest_dnnbench.report.winners import THROUGHPUT, Contest, contests
from pytest_dnnbench.report.words import NOTHING, change, rate

MIB = 2.0**20

CLEAR, AHEAD = "clear", "ahead"
"""The fastest of its group and number of GPUs: clearly (the 95% intervals of all its leads are
above zero), or not."""

MEMORY = {
    "allocated_peak_bytes": "allocated",
    "cached_peak_bytes": "cached",
    "resident_peak_bytes": "resident",
}

_ABSURD = 1e15
"""Figures from here on are shown by their order of magnitude."""

_SHORT = {**MEMORY, "step_time_s": "step time", "scaling_efficiency": "efficiency"}


@dataclass(frozen=True, slots=True)
class Row:
    """One case. `series`: the framework with its options where they vary. `rank`: CLEAR, AHEAD or
    empty, as always where ranks are crowded."""

    result: Result
    series: str
    rank: str = ""

    @property
    def crowded(self) -> bool:
        """More ranks than cores: its speed means nothing."""
        return self.result.case.get("oversubscribed") is True

    @property
    def status(self) -> str:
        """The verdict's status."""
        return self.result.status


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one group, by number of GPUs and then as the frameworks are listed."""

    group: Group
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `brief` is the head where room is short, its unit then told beside the table.
    `worth` tells which go first where there is none: the lowest; None: never."""

    key: str
    head: str
    text: Callable[[Row], str]
    value: Callable[[Row], object]
    worth: int | None = None
    is_text: bool = False
    brief: str = ""


def sections(study: Study) -> list[Section]:
    """All rows of a study, group by group."""
    best = {id(contest.first): _rank(contest) for contest in contests(study)}

    def row(result: Result) -> Row:
        plain = Row(result, study.label(result))
        return plain if plain.crowded else replace(plain, rank=best.get(id(result), ""))

    return [Section(group, tuple(map(row, group.results))) for group in study.groups]


def columns(rows: Iterable[Row]) -> list[Column]:
    """The columns that say something about at least one of the rows; framework and GPUs always
    do."""
    known = list(rows)
    return [
        one
        for one in COLUMNS
        if one.worth is None or any(one.value(row) is not None for row in known)
    ]


def half_width(result: Result) -> float | None:
    """Of the throughput's 95% interval over launches, upwards, as a fraction; None without an
    interval."""
    figure = result.metrics.get(THROUGHPUT)
    found = interval(figure.per_launch, THROUGHPUT) if figure else None
    return found.high / found.middle - 1 if found and found.middle > 0 else None


def verdict_text(verdict: Mapping[str, Any]) -> str | None:
    """Status and the change that decided it: "regressed -5.1%", "regressed allocated +12.0%". None:
    no baseline."""
    status = str(verdict.get("status") or "no-baseline")
    if status == "no-baseline":
        return None
    entries = verdict.get("metrics")
    known = entries.items() if isinstance(entries, Mapping) else ()
    found = {name: one for name, one in known if isinstance(one, Mapping)}
    deciding = [name for name, entry in found.items() if entry.get("status") == status]
    metric = THROUGHPUT if THROUGHPUT in deciding or not deciding else deciding[0]
    fraction = number(found.get(metric, {}).get("change"))
    if fraction is None:
        return status
    subject = "" if metric == THROUGHPUT else f" {_SHORT.get(metric, metric)}"
    return f"{status}{subject} {change(fraction)}"


def _rank(contest: Contest) -> str:
    if contest.second is None:
        return ""
    return CLEAR if contest.clear else AHEAD


def _metric(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.result.value(name)


def _shown(
    value: Callable[[Row], float | None], form: Callable[[float], str]
) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        found = value(row)
        if found is None:
            return NOTHING
        return form(found) if abs(found) < _ABSURD else f"{found:.2g}"

    return text


def _memory_column(name: str, worth: int) -> Column:
    value = _metric(name)
    return Column(
        name,
        f"{MEMORY[name]} MiB",
        _shown(value, lambda found: f"{found / MIB:,.0f}"),
        value,
        worth,
        brief=MEMORY[name],
    )


def _plan(row: Row) -> str | None:
    return plan_text(row.result.plan)


def _verdict(row: Row) -> str | None:
    return verdict_text(row.result.verdict)


def _half(row: Row) -> float | None:
    return half_width(row.result)


def _percent(fraction: float) -> str:
    return f"{fraction:.1%}" if fraction < 1 else ">100%"


_throughput, _speedup, _efficiency = (
    _metric(name) for name in (THROUGHPUT, "speedup", "scaling_efficiency")
)

COLUMNS = (
    Column("framework", "framework", lambda row: row.series, lambda row: row.series, is_text=True),
    Column("plan", "plan", lambda row: _plan(row) or "", _plan, worth=5, is_text=True),
    Column(
        "gpus",
        "GPUs",
        lambda row: f"{row.result.gpus}{'*' if row.crowded else ''}",
        lambda row: row.result.gpus,
    ),
    Column(THROUGHPUT, "img/s", _shown(_throughput, rate), _throughput),
    Column("throughput_half_width", "±", _shown(_half, _percent), _half, worth=1),
    Column("speedup", "speed-up", _shown(_speedup, "{:.2f}x".format), _speedup, worth=6),
    Column(
        "scaling_efficiency",
        "efficiency",
        _shown(_efficiency, "{:.0%}".format),
        _efficiency,
        worth=3,
        brief="eff.",
    ),
    _memory_column("allocated_peak_bytes", worth=4),
    _memory_column("cached_peak_bytes", worth=2),
    _memory_column("resident_peak_bytes", worth=4),
    Column("verdict", "verdict", lambda row: _verdict(row) or "", _verdict, worth=7, is_text=True),
)
