"""The table of a study as Markdown, for people to paste, and as CSV, for programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from pytest_dnnbench.harmless import markdown_text
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.functions import FunctionTable
from pytest_dnnbench.report.nodes import LINK_HEADS, NODE_HEADS, NodesTable
from pytest_dnnbench.report.rows import CLEAR, Column, Row, Section, columns, half_width
from pytest_dnnbench.report.side_by_side import HEADS, SideTable
from pytest_dnnbench.report.study import CaseGroup, Study
from pytest_dnnbench.report.verdicts import verdict_text

# What a spreadsheet would run as a formula at the start of a cell.
_FORMULA = ("=", "+", "-", "@")


def markdown_tables(
    sections: Sequence[Section],
    functions: FunctionTable | None,
    sides: SideTable | None,
    caption: str,
    nodes: NodesTable | None = None,
) -> str:
    """A table per group, where the clearly fastest case of each number of GPUs is bold; then that
    of the timed functions, that of two environments side by side, and those of the nodes."""
    shown = columns([row for section in sections for row in section.rows])
    lines = [line for section in sections for line in _table_lines(section, shown)]
    lines += _function_lines(functions) if functions else []
    lines += side_lines(sides) if sides else []
    lines += _node_lines(nodes) if nodes else []
    lines.append(markdown_text(caption) if sections or functions else "No case was measured.")
    return "\n".join(lines) + "\n"


def csv_table(sections: Sequence[Section], study: Study) -> str:
    """A row per case, with raw values. Each head ends with the unit of its column, as in
    `_fraction`, `_ratio`, `_bytes`, `_s` or `_nat`; that of the throughput is in the column
    `throughput_unit`. Empty where a record has no value, and where too few launches were
    undisturbed for one."""
    return csv_of(
        [_csv_row(section.group, row, study) for section in sections for row in section.rows]
    )


def csv_of(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same heads as CSV that no spreadsheet runs."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows[0] if rows else ())
    for cells in rows:
        writer.writerow(map(_harmless, cells.values()))
    return stream.getvalue()


def _csv_row(group: CaseGroup, row: Row, study: Study) -> dict[str, object]:
    """The cells of a case under their heads."""
    result = row.result
    record, case, value = result.record, result.case, result.value
    return {
        "model": group.model,
        "phase": group.phase,
        "setting": group.setting,
        "framework": row.series,
        "shape": case.shape or None,
        "plan": record.plan.shape if record.plan else None,
        "gpus": case.gpus,
        "device": case.device,
        "precision": case.precision,
        "form": case.form.label or "plain",
        "batch_size_per_rank": case.batch_size,
        "image_size_px": case.image_size if record.run.sample == "img" else None,
        "sequence_length_tok": case.sequence_length if record.run.sample == "tok" else None,
        "steps": record.run.steps,
        "warmup_steps": record.run.warmup,
        "launches": len(record.launches),
        "launches_disturbed": result.disturbed,
        "oversubscribed": row.crowded,
        "throughput": value(THROUGHPUT),
        "throughput_unit": result.throughput_unit,
        "throughput_half_width_fraction": half_width(result),
        "step_time_s": value("step_time_s"),
        "speedup_ratio": value("speedup"),
        "scaling_efficiency_fraction": value("scaling_efficiency"),
        "allocated_peak_bytes": value("allocated_peak_bytes"),
        "cached_peak_bytes": value("cached_peak_bytes"),
        "resident_peak_bytes": value("resident_peak_bytes"),
        "loss_nat": value("loss"),
        "verdict": verdict_text(record.verdict),
        "torch": record.environment.must_match.get("torch"),
        "test": result.name,
        "session": study.runs[result.run].saved,
    }


def _function_lines(table: FunctionTable) -> list[str]:
    return [
        "### timed functions",
        "",
        _line(map(markdown_text, table.heads)),
        _line("---:" if number else "---" for number in table.numbers),
        *(_line(map(markdown_text, row)) for row in table.rows),
        "",
    ]


def _table_lines(section: Section, shown: Sequence[Column]) -> list[str]:
    return [
        f"### {markdown_text(section.heading)}",
        "",
        _line(markdown_text(column.head) for column in shown),
        _line("---" if column.is_text else "---:" for column in shown),
        *(_line(_cell(row, column) for column in shown) for row in section.rows),
        "",
    ]


def _cell(row: Row, column: Column) -> str:
    text = markdown_text(column.text(row))
    return f"**{text}**" if column.key == THROUGHPUT and row.rank == CLEAR else text


def side_lines(sides: SideTable) -> list[str]:
    """The comparison of two environments as lines of Markdown, whole: what differs, what came of
    it, a row for each metric of each case, and why the slower side is slower."""
    return [
        "### Two environments side by side",
        "",
        *(f"{markdown_text(sentence)}\n" for sentence in sides.sentences),
        _line(HEADS),
        _line(["---"] * len(HEADS)),
        *(_line(map(markdown_text, row)) for row in sides.rows),
        "",
        *(line for lines in sides.reasons for line in _list(lines)),
    ]


def _node_lines(table: NodesTable) -> list[str]:
    lines = ["### Nodes and links", "", *(f"{markdown_text(text)}\n" for text in table.sentences)]
    for heads, rows, left_out in (
        (NODE_HEADS, table.nodes, table.nodes_left_out),
        (LINK_HEADS, table.links, table.links_left_out),
    ):
        if rows:
            lines += [_line(heads), _line(["---"] * len(heads))]
            lines += [_line(map(markdown_text, row)) for row in rows]
            lines += [""]
        if left_out:
            lines += [f"{left_out} more are in nodes.csv.", ""]
    return lines


def _list(lines: Sequence[str]) -> list[str]:
    """A line and those below it, as a list."""
    head, *rest = (markdown_text(line.strip()) for line in lines)
    return [f"- {head}", *(f"  - {line}" for line in rest), ""]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _harmless(value: object) -> object:
    """Text that a spreadsheet does not run."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
