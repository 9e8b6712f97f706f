"""The table at the end of a session: one row per case, grouped by phase and model."""

from typing import Any

from pytest_dnnbench.report.plans import render_plans
from pytest_dnnbench.results.record import Record

HEAD = ("framework", "GPUs", "img/s", "speed-up", "efficiency", "memory/rank", "")


def render(records: list[Record]) -> list[str]:
    """The lines of the table; narrow enough for 80 columns unless names are long."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["case"]["phase"], record["case"]["model"]), []).append(record)
    rows = {
        group: [_row(record) for record in sorted(members, key=lambda one: one["case"]["gpus"])]
        for group, members in sorted(groups.items())
    }
    cells = [HEAD, *(row for members in rows.values() for row in members)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    lines = []
    for (phase, model), members in rows.items():
        lines += [f"{model}, {phase}", _line(HEAD, widths), *(_line(row, widths) for row in members), ""]
    return [*lines[:-1], *_notes(records), *render_plans(records)]


def _row(record: Record) -> tuple[str, ...]:
    case, metrics = record["case"], record["metrics"]
    return (
        case["framework"],
        str(case["gpus"]),
        f"{metrics['throughput_img_s']['value']:,.1f}",
        _number(metrics.get("speedup"), "{:.2f}x"),
        _number(metrics.get("scaling_efficiency"), "{:.0%}"),
        _memory(metrics),
        "*" if case["oversubscribed"] else "",
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (
        cell.ljust(width) if not column else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(["  " + first, *others]).rstrip()


def _number(entry: dict[str, Any] | None, form: str) -> str:
    return form.format(entry["value"]) if entry else "-"


def _memory(metrics: dict[str, Any]) -> str:
    if "allocated_peak_bytes" in metrics:
        pair = (metrics["allocated_peak_bytes"]["value"], metrics["cached_peak_bytes"]["value"])
        return " / ".join(_mebibytes(value) for value in pair)
    return _mebibytes(metrics["resident_peak_bytes"]["value"])


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def _notes(records: list[Record]) -> list[str]:
    case = records[0]["case"]
    kind = "resident" if case["device"] == "cpu" else "allocated / cached"
    lines = ["", f"median of {len(records[0]['launches'])} launches of {case['steps']} steps; memory: peak {kind}"]
    if any(record["case"]["oversubscribed"] for record in records):
        lines.append("* more ranks than cores: says nothing about speed")
    return lines
