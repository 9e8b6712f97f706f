"""The table of outcomes that a run of the whole matrix prints; docs/appendix/fault-matrix.md keeps
it."""

from pytest_dnnbench.errors import DnnbenchError
from tests.faults.matrix import FAULTS, FRAMEWORKS, NAMES, PHASES

_SEEN: dict[tuple[str, str, str], tuple[str, float]] = {}


def note(
    fault: str, phase: str, framework: str, error: DnnbenchError, took_s: float, faults: list[str]
) -> None:
    """Keeps what came of one planted fault."""
    name = NAMES.get(type(error), type(error).__name__)
    _SEEN[fault, phase, framework] = (
        f"**{name}: {'; '.join(faults)}**" if faults else name,
        took_s,
    )


def lines() -> list[str]:
    """Markdown: per framework a table, faults down and phases across; the last line tells the
    slowest."""
    if not _SEEN:
        return []
    text = []
    for framework in FRAMEWORKS:
        text += [
            f"### {framework}",
            "",
            "| fault | " + " | ".join(PHASES) + " |",
            "|---" * (len(PHASES) + 1) + "|",
        ]
        for fault in FAULTS:
            cells = [_SEEN.get((fault, phase, framework), ("-", 0.0))[0] for phase in PHASES]
            text.append(f"| {fault} | " + " | ".join(cells) + " |")
        text.append("")
    hung = [took for name, took in _SEEN.values() if name == "hung"] or [0.0]
    others = [took for name, took in _SEEN.values() if name != "hung"] or [0.0]
    text.append(
        f"{len(_SEEN)} combinations; the slowest hang took {max(hung):.1f} s, anything else {max(others):.1f} s."
    )
    return text
