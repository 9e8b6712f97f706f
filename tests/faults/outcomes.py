"""The table of outcomes that a run of the whole matrix prints; docs/appendix/fault-matrix.md keeps
it."""

from pytest_dnnbench.errors import DnnbenchError
from tests.faults.matrix import FAULTS, FRAMEWORKS, NAMES, RANK_PHASES

_OUTCOMES: dict[tuple[str, str, str], tuple[str, float]] = {}


def note(
    fault: str,
    rank_phase: str,
    framework: str,
    error: DnnbenchError,
    took_s: float,
    faults: list[str],
) -> None:
    """Keeps the outcome of one planted fault."""
    name = NAMES.get(type(error), type(error).__name__)
    _OUTCOMES[fault, rank_phase, framework] = (
        f"**{name}: {'; '.join(faults)}**" if faults else name,
        took_s,
    )


def lines() -> list[str]:
    """Markdown: per framework a table, a row per fault and a column per rank phase; the last line
    gives the longest times."""
    if not _OUTCOMES:
        return []
    text = []
    for framework in FRAMEWORKS:
        text += [
            f"### {framework}",
            "",
            "| fault | " + " | ".join(RANK_PHASES) + " |",
            "|---" * (len(RANK_PHASES) + 1) + "|",
        ]
        for fault in FAULTS:
            cells = [
                _OUTCOMES.get((fault, rank_phase, framework), ("-", 0.0))[0]
                for rank_phase in RANK_PHASES
            ]
            text.append(f"| {fault} | " + " | ".join(cells) + " |")
        text.append("")
    hung = [took_s for name, took_s in _OUTCOMES.values() if name == "hung"] or [0.0]
    others = [took_s for name, took_s in _OUTCOMES.values() if name != "hung"] or [0.0]
    text.append(
        f"{len(_OUTCOMES)} combinations; the slowest hang took {max(hung):.1f} s, anything else"
        f" {max(others):.1f} s."
    )
    return text
