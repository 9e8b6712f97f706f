"""Two environments side by side, in words: the sentences of a session's summary, the rows of its
table, and the message of a case that failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench import harmless
from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.side_by_side import OtherSide, SideEntry, SideMetric
from pytest_dnnbench.results.statistics.paired import mean_change
from pytest_dnnbench.results.verdicts.text import figure
from pytest_dnnbench.results.verdicts.why import why_lines

_MOST_ROWS, _MOST_DIFFERENCES, _MOST_REASONS = 12, 8, 4


@dataclass(frozen=True, slots=True)
class SideRow:
    """One metric of one case, as text. `status` is B's, or "failed", or "not compared"."""

    case: str
    metric: str
    a: str
    b: str
    change: str
    interval: str
    status: str
    remark: str


def summary_lines(records: Mapping[str, Record]) -> list[tuple[str, str]]:
    """What the session found, each line with a colour by pytest's name or ""; none where it had
    one environment."""
    others = _others(records)
    if not others:
        return []
    side = next(iter(others.values())).side
    lines = [(f"dnnbench: {line}", "") for line in (*about_lines(side, others), *answers(others))]
    rows = [row for name, record in records.items() for row in rows_of(name, record)]
    # What was called, or failed, comes first; of the rest, the metric that everybody asks for.
    shown = [row for row in rows if row.status != "no evidence"]
    shown += [row for row in rows if row.status == "no evidence" and row.metric == THROUGHPUT]
    lines += [
        (f"side B: {row.case}: {_brief(row)}", _COLOURS.get(row.status, ""))
        for row in shown[:_MOST_ROWS]
    ]
    if len(shown) > _MOST_ROWS:
        lines.append((f"side B: {len(shown) - _MOST_ROWS} more", ""))
    return [*lines, *((line, "") for line in _reasons(others))]


def _reasons(others: Mapping[str, OtherSide]) -> list[str]:
    """Why the slower side is slower, of the cases of which that is known."""
    explained = {case: lines for case, other in others.items() if (lines := reason(other))}
    shown = [*explained.items()][:_MOST_REASONS]
    lines = [line for case, (head, *causes) in shown for line in (f"{case}: {head}", *causes)]
    if len(explained) > len(shown):
        lines.append(f"why: {len(explained) - len(shown)} more cases are explained in the record")
    return lines


def reason(other: OtherSide) -> list[str]:
    """Why the slower side of a case is slower, in lines; none where none is, or nothing is
    known."""
    return why_lines(other.why, f"on side {other.slower}")


_COLOURS = {"worse": "yellow", "not compared": "yellow", "better": "green", "failed": "red"}


def about_lines(side: SideEntry, others: Mapping[str, OtherSide]) -> list[str]:
    """Which sides were compared, and what differs between them."""
    differences = list(
        dict.fromkeys(line for other in others.values() for line in other.side.differences)
    )
    if not differences:
        return [
            f"side A is this environment, side B {side.name}; both sides are the same: nothing"
            " differs, so that this is a control"
        ]
    more = len(differences) - _MOST_DIFFERENCES
    shown = "; ".join(differences[:_MOST_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
    return [f"side A is this environment, side B {side.name}; what differs, A -> B: {shown}"]


def answers(others: Mapping[str, OtherSide]) -> list[str]:
    """The answer for each metric that any case has, throughput first; other metrics only where a
    difference was called."""
    metrics = dict.fromkeys(
        [THROUGHPUT, *(name for other in others.values() for name in other.compared)]
    )
    sentences = []
    for metric in metrics:
        compared = [
            other.compared[metric]
            for other in others.values()
            if metric in other.compared and other.compared[metric].is_possible
        ]
        called = any(each.status != "no evidence" for each in compared)
        if compared and (called or metric == THROUGHPUT):
            sentences.append(
                metric_sentence(metric, compared, next(iter(others.values())).side.name)
            )
    return sentences


def metric_sentence(metric: str, compared: Sequence[SideMetric], name: str) -> str:
    """One sentence for one metric: in how many cases B differs, by how much, and what would have
    been seen in the others."""
    parts = []
    count = len(compared)
    for status in ("worse", "better"):
        cases = [each for each in compared if each.status == status]
        if cases:
            mean = mean_change([(each.change, each.interval) for each in cases])
            whose = "" if len(cases) == 1 else " (mean)"
            parts.append(
                f"{_difference(metric, mean.change)}{whose}, 95% interval"
                f" {_span(*mean.interval)}{_where(len(cases), count)}"
            )
    rest = [each for each in compared if each.status == "no evidence"]
    if not parts:
        return (
            f"no evidence that B ({name}) differs from A in {_title(metric)}"
            f"{_where(0, count)}: {_would(rest)}{_overall(metric, compared)}"
        )
    ending = f"; no evidence in the rest, where {_would(rest)}" if rest else ""
    return f"B ({name}) {' and '.join(parts)}{ending}{_overall(metric, compared)}"


def _overall(metric: str, compared: Sequence[SideMetric]) -> str:
    """The mean over all cases, where there are several."""
    if len(compared) < 2:
        return ""
    mean = mean_change([(each.change, each.interval) for each in compared])
    low, high = mean.interval
    return (
        f"; over all {len(compared)} cases B's {_title(metric)} is {_percent(abs(mean.change))}"
        f" {'lower' if mean.change < 0 else 'higher'} (geometric mean),"
        f" 95% interval {low:+.1%} to {high:+.1%}"
    )


def _would(cases: Sequence[SideMetric]) -> str:
    """What would have been called in these cases."""
    least, most = (_percent(pick(each.detectable for each in cases)) for pick in (min, max))
    span = least if least == most else f"{least} to {most}, by case,"
    return f"a change of {span} would have been found"


def _difference(metric: str, change: float) -> str:
    """What a change means, as in "is 3.1% slower than A"."""
    size = _percent(abs(change))
    if metric == THROUGHPUT:
        return f"is {size} {'slower' if change < 0 else 'faster'} than A"
    return f"has {size} {'less' if change < 0 else 'more'} {_title(metric)} than A"


def _span(low: float, high: float) -> str:
    """An interval of sizes where all of it has one sign, else of signed changes."""
    if low * high > 0:
        least, most = sorted((abs(low), abs(high)))
        return f"{100 * least:.3g} to {_percent(most)}"
    return f"{low:+.1%} to {high:+.1%}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g}%" if fraction < 0.1 else f"{fraction:.0%}"


def _where(called: int, count: int) -> str:
    """In how many of the cases; nothing where there is but one."""
    if count == 1:
        return ""
    return f", in {called} of {count} cases" if called else f" in any of {count} cases"


def _title(metric: str) -> str:
    return metric_row(metric).title


def rows_of(name: str, record: Record) -> list[SideRow]:
    """The rows of a case: one for each metric that was compared, or one that says why none was;
    none where the case has no other side."""
    other = record.against
    if other is None:
        return []
    if other.failure is not None:
        first = other.failure.strip().splitlines() or [""]
        return [SideRow(name, "", "", "", "", "", "failed", first[0])]
    return [*_compared_rows(name, record, other), *_uncompared_rows(name, other)]


def _uncompared_rows(name: str, other: OtherSide) -> list[SideRow]:
    """A row for each metric that could not be compared, with the reason."""
    return [
        SideRow(name, metric, "", "", "", "", "not compared", why)
        for metric, why in other.uncompared.items()
    ]


def _compared_rows(name: str, record: Record, other: OtherSide) -> list[SideRow]:
    return [
        SideRow(
            case=name,
            metric=metric,
            a=figure(each.a, record.metrics[metric].unit),
            b=figure(each.b, record.metrics[metric].unit),
            change=f"{each.change:+.2%}",
            interval=f"{each.interval[0]:+.2%} to {each.interval[1]:+.2%}",
            status=each.status,
            remark=_remark(each),
        )
        for metric, each in other.compared.items()
        if metric in record.metrics and each.is_possible
    ]


def _remark(each: SideMetric) -> str:
    parts = [f"{counted(each.pairs, 'pair')}"]
    if each.status == "no evidence":
        parts.append(_would([each]))
    if each.limit is not None:
        parts.append(f"limit {each.limit:+.1%}{' BROKEN' if each.broken else ''}")
    if each.disturbed:
        parts.append(f"{counted(each.disturbed, 'pair')} disturbed")
    return ", ".join(parts)


def _brief(row: SideRow) -> str:
    if row.status == "failed":
        return f"FAILED: {row.remark}"
    if row.status == "not compared":
        return f"{row.metric} NOT COMPARED: {row.remark}"
    return f"{row.metric} {row.change}, 95% interval {row.interval}: {row.status} ({row.remark})"


def called_lines(record: Record) -> list[str]:
    """The differences between the sides of a case that were called, and why one is slower; none
    where none was."""
    other = record.against
    rows = [row for row in rows_of("", record) if row.status in ("better", "worse")]
    if other is None or not rows:
        return []
    return [f"side B ({other.side.name}): {_brief(row)}" for row in rows] + reason(other)


def failure_of(other: OtherSide) -> bool:
    """Whether side B fails the case's test."""
    return other.failure is not None or any(each.broken for each in other.compared.values())


def side_failure_message(record: Record) -> str | None:
    """Why side B fails the case's test: it could not be measured, or a limit is broken; None where
    it does not."""
    other = record.against
    if other is None or not failure_of(other):
        return None
    label, side = record.measured_case.label, f"side B ({other.side.name})"
    if other.failure is not None:
        return f"{side} of {label} failed; side A's figures are kept: {other.failure}"
    lines = [f"{side} is worse than --dnn-against-limits allows: {label}"]
    for row in rows_of(label, record):
        if row.metric in other.compared and other.compared[row.metric].broken:
            lines += [
                f"  {row.metric}: A {row.a}, B {row.b}, {row.change}",
                f"    95% interval {row.interval}, {row.remark}",
            ]
    if other.side.differences:
        lines.append(f"  what differs, A -> B: {'; '.join(other.side.differences)}")
    lines += [f"  {line}" for line in reason(other)]
    return harmless.lines(lines)


def _others(records: Mapping[str, Record]) -> dict[str, OtherSide]:
    return {name: record.against for name, record in records.items() if record.against is not None}
