"""The rows and columns of a study's table, the same for the terminal, Markdown, CSV and HTML.

    Study ──sections()──> Section (a group's heading) ──> Row ──Column.text / Column.value──> format

A `text` is for readers, in the unit of the column's head; a `value` is for machines, in the unit of
its key, or None. Each format decides how a table is laid out, cut or coloured (terminal: table.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.report.figures import MIB, NOTHING, range_text, rate
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.spread import interval_of
from pytest_dnnbench.report.study import MIXED_RATES, CaseGroup, Study, throughput_unit
from pytest_dnnbench.report.verdicts import MEMORY, verdict_text
from pytest_dnnbench.report.winners import Contest, contests
from pytest_dnnbench.results.records.speed_up import ACROSS, WITHIN

CLEAR, AHEAD = "clear", "ahead"
"""The fastest of its group and number of GPUs: clearly (the 95% intervals of all its leads are
above zero), or not."""

LEFT_OUT = "!"
"""Marks a throughput from which disturbed launches were left out."""

_ABSURD = 1e15
"""Figures from here on are shown by their order of magnitude."""


@dataclass(frozen=True, slots=True)
class Row:
    """One case. `series`: the framework with its options where they vary. `rank`: CLEAR, AHEAD or
    empty; always empty where ranks are crowded. `test`: the test that measured it, where nothing
    else tells the row from another: several tests of one case, or a test that is repeated."""

    result: Result
    series: str
    rank: str = ""
    test: str = ""

    @property
    def crowded(self) -> bool:
        """More ranks than cores: its speed means nothing."""
        return self.result.record.run.oversubscribed

    @property
    def marked(self) -> bool:
        """Its throughput is a figure, from which disturbed launches were left out."""
        launches = self.result.launches(THROUGHPUT)
        return bool(launches.left_out) and not launches.doubt

    @property
    def status(self) -> str:
        """The verdict's status."""
        return self.result.status


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one group, by number of GPUs and then in the order of the frameworks. `heading`
    gives the unit of throughput where the study has several."""

    group: CaseGroup
    rows: tuple[Row, ...]
    heading: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `brief` is the head where room is short; a note beside the table then gives the
    unit. `worth`: columns of the lowest worth are dropped first; those of None never."""

    key: str
    head: str
    text: Callable[[Row], str]
    value: Callable[[Row], object]
    worth: int | None = None
    is_text: bool = False
    brief: str = ""


def sections(study: Study) -> list[Section]:
    """All rows of a study, group by group."""
    ranks = {id(contest.first): _rank(contest) for contest in contests(study)}
    mixed, tests = has_mixed_rates(study.latest), _tests(study)

    def row(result: Result) -> Row:
        unranked = Row(result, study.label(result), test=tests.get(id(result), ""))
        return unranked if unranked.crowded else replace(unranked, rank=ranks.get(id(result), ""))

    def heading(group: CaseGroup) -> str:
        return f"{group.label} [{group.throughput_unit}]" if mixed else group.label

    return [
        Section(group, tuple(map(row, group.results)), heading(group)) for group in study.groups
    ]


def _tests(study: Study) -> dict[int, str]:
    """The tests of those results, by their id, whose rows would be alike: without the file where
    that is enough."""
    rows: dict[object, list[Result]] = {}
    for group in study.groups:
        for result in group.results:
            case, label = result.case, study.label(result)
            looks = (group.label, result.run, label, case.shape, case.gpus, case.nodes)
            rows.setdefault(looks, []).append(result)
    alike = [result for results in rows.values() if len(results) > 1 for result in results]
    short = [result.name.rpartition("::")[2] for result in alike]
    if len(set(zip(short, (result.run for result in alike), strict=True))) < len(alike):
        short = [result.name for result in alike]
    return {id(result): name for result, name in zip(alike, short, strict=True)}


def has_mixed_rates(results: Sequence[Result]) -> bool:
    """Whether the results have throughputs of more than one unit."""
    return len({result.throughput_unit for result in results} - {""}) > 1


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that say something about at least one of the rows; framework and GPUs always
    do. The head of throughput is its unit."""
    unit = throughput_unit(row.result for row in rows)
    return [
        replace(column, head=unit) if column.key == THROUGHPUT else column
        for column in COLUMNS
        if column.worth is None or any(_says_something(column, row) for row in rows)
    ]


def _says_something(column: Column, row: Row) -> bool:
    return column.value(row) is not None or bool(row.result.launches(column.key).values)


def half_width(result: Result) -> float | None:
    """Half of the throughput's 95% interval over launches, upwards, as a fraction; None without
    an interval."""
    interval = interval_of(result, THROUGHPUT)
    return interval.high / interval.middle - 1 if interval else None


def _rank(contest: Contest) -> str:
    if contest.second is None:
        return ""
    return CLEAR if contest.clear else AHEAD


def _metric_column(
    metric: str,
    form: Callable[[float], str],
    *,
    head: str = "",
    brief: str = "",
    worth: int | None = None,
) -> Column:
    """The column of a metric's median; its head is the metric's name unless one is given."""

    def value(row: Row) -> float | None:
        return row.result.value(metric)

    def text(row: Row) -> str:
        launches = row.result.launches(metric)
        if launches.doubt:
            return range_text(row.result, metric, bounded)
        mark = LEFT_OUT if metric == THROUGHPUT and launches.left_out else ""
        return _shown(value, form)(row) + mark

    def bounded(figure: float) -> str:
        return form(figure) if abs(figure) < _ABSURD else f"{figure:.2g}"

    return Column(metric, head or metric_row(metric).title, text, value, worth, brief=brief)


def _shown(
    value: Callable[[Row], float | None], form: Callable[[float], str]
) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        figure = value(row)
        if figure is None:
            return NOTHING
        return form(figure) if abs(figure) < _ABSURD else f"{figure:.2g}"

    return text


def _memory_column(metric: str, worth: int) -> Column:
    brief = MEMORY[metric]
    return _metric_column(metric, _mib, head=f"{brief} MiB", brief=brief, worth=worth)


def _mib(figure: float) -> str:
    return f"{figure / MIB:,.0f}"


def _percent(fraction: float) -> str:
    return f"{fraction:.1%}" if fraction < 1 else ">100%"


def _series(row: Row) -> str:
    return row.series


def _test(row: Row) -> str | None:
    return row.test or None


def _shape(row: Row) -> str | None:
    return row.result.case.shape or None


def _plan(row: Row) -> str | None:
    plan = row.result.record.plan
    return plan.shape if plan else None


def _gpus(row: Row) -> int:
    return row.result.case.gpus


def _nodes(row: Row) -> int | None:
    nodes = row.result.case.nodes
    return nodes if nodes > 1 else None


def _disturbed(row: Row) -> str | None:
    count = row.result.disturbed
    return f"{count} of {len(row.result.record.launches)}" if count else None


def _half_width(row: Row) -> float | None:
    return half_width(row.result)


def _verdict(row: Row) -> str | None:
    return verdict_text(row.result.record.verdict)


COLUMNS = (
    Column("framework", "framework", _series, _series, is_text=True),
    Column("test", "test", lambda row: row.test, _test, worth=8, is_text=True),
    Column("shape", "shape", lambda row: _shape(row) or "", _shape, worth=5, is_text=True),
    Column("plan", "plan", lambda row: _plan(row) or "", _plan, worth=5, is_text=True),
    Column("gpus", "GPUs", lambda row: f"{_gpus(row)}{'*' if row.crowded else ''}", _gpus),
    Column("nodes", "nodes", lambda row: f"{row.result.case.nodes}", _nodes, worth=5),
    _metric_column(THROUGHPUT, rate, head=MIXED_RATES),
    Column("throughput_half_width", "±", _shown(_half_width, _percent), _half_width, worth=1),
    _metric_column("speedup", "{:.2f}x".format, worth=6),
    _metric_column("scaling_efficiency", "{:.0%}".format, brief="eff.", worth=3),
    _metric_column(WITHIN, "{:.0%}".format, head="within a node", brief="node", worth=2),
    _metric_column(ACROSS, "{:.0%}".format, head="across nodes", brief="across", worth=3),
    _memory_column("allocated_peak_bytes", worth=4),
    _memory_column("cached_peak_bytes", worth=2),
    _memory_column("resident_peak_bytes", worth=4),
    Column(
        "disturbed",
        "disturbed",
        lambda row: _disturbed(row) or "",
        _disturbed,
        worth=0,
        is_text=True,
    ),
    Column("verdict", "verdict", lambda row: _verdict(row) or "", _verdict, worth=7, is_text=True),
)
