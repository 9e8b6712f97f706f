"""A comparison of two files in words: for a terminal, and as Markdown for a pull request."""

from pytest_dnnbench.results.verdicts.compare import Comparison
from pytest_dnnbench.results.verdicts.judge import VerdictData
from pytest_dnnbench.results.verdicts.text import figure, metric_lines, notes_of

_MARKS = {"regressed": "🔴", "improved": "🟢", "noisy": "🟡", "ok": "⚪"}


def plain(found: Comparison) -> str:
    """One paragraph per case that is not simply ok, then the counts."""
    lines = [f"{found.baseline} -> {found.now.name}"]
    for name, verdict in found.sorted_verdicts():
        if verdict["status"] == "ok":
            continue
        lines.append(f"{verdict['status']}: {name}")
        for metric, entry in verdict["metrics"].items():
            if entry["status"] == "regressed":
                lines += metric_lines(metric, entry)
        lines += [f"  {note}" for note in notes_of(verdict)]
    lines += _missing(found)
    return "\n".join([*lines, _counts(found)])


def markdown(found: Comparison) -> str:
    """A table of what is not ok, the rest folded away."""
    worst = "regressed" if found.regressed else "no regression"
    lines = [f"### Benchmarks: {worst}", "", _counts(found), ""]
    shown = [
        (name, verdict) for name, verdict in found.sorted_verdicts() if verdict["status"] != "ok"
    ]
    if shown:
        lines += _table(shown)
    fine = [
        (name, verdict) for name, verdict in found.sorted_verdicts() if verdict["status"] == "ok"
    ]
    if fine:
        lines += [
            "",
            f"<details><summary>{len(fine)} ok</summary>",
            "",
            *_table(fine),
            "",
            "</details>",
        ]
    if missing := _missing(found):
        lines += ["", *(f"- {_escaped(line)}" for line in missing)]
    return "\n".join(lines)


def _table(rows: list[tuple[str, VerdictData]]) -> list[str]:
    lines = [
        "| case | metric | baseline | now | change | 95% interval | limit | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, verdict in rows:
        if not verdict["metrics"]:
            reason = verdict["reason"] or ""
            lines.append(
                f"| `{_escaped(name)}` | | | | | | | {verdict['status']} {_escaped(reason)} |"
            )
        for metric, entry in verdict["metrics"].items():
            low, high = entry["interval"]
            absolute = entry["limit_absolute"]
            limit = f"{entry['limit']:+.1%}" if absolute is None else figure(metric, absolute)
            mark = _MARKS.get(entry["status"], "")
            before, after = figure(metric, entry["baseline"]), figure(metric, entry["now"])
            lines.append(
                f"| `{_escaped(name)}` | {metric} | {before} | {after}"
                f" | {entry['change']:+.1%} | {low:+.1%} to {high:+.1%} | {limit} | {mark} {entry['status']} |"
            )
    return lines


def _missing(found: Comparison) -> list[str]:
    lines = [f"{found.now.name} lacks {name}" for name in found.only_baseline]
    lines += [f"{found.baseline} lacks {name}" for name in found.only_now]
    return lines + [f"passed over: {why}" for why in found.passed_over]


def _counts(found: Comparison) -> str:
    return f"{len(found.verdicts)} cases: " + ", ".join(
        f"{count} {status}" for status, count in found.counts().items()
    )


def _escaped(text: str) -> str:
    for letter in "\\`|<>[]":
        text = text.replace(
            letter, {"`": "'", "|": "\\|", "<": "&lt;", ">": "&gt;"}.get(letter, letter)
        )
    return text
