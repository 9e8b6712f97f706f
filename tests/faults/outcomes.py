"""The table of outcomes that a run of the whole matrix prints; docs/appendix/fault-matrix.md keeps
it."""

from pytest_dnnbench.errors import DnnbenchError
from tests.cluster.nodes import NAMES as NODES
from tests.faults import two_nodes
from tests.faults.matrix import FAULTS, FRAMEWORKS, NAMES, RANK_PHASES

_ON_TWO_NODES: dict[tuple[str, str, str], tuple[str, float]] = {}
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
    _OUTCOMES[fault, rank_phase, framework] = (_cell(error, faults), took_s)


def note_two_nodes(
    fault: str, rank_phase: str, node: str, error: DnnbenchError, took_s: float, faults: list[str]
) -> None:
    """The same of a fault over two nodes."""
    _ON_TWO_NODES[fault, rank_phase, node] = (_cell(error, faults), took_s)


def _cell(error: DnnbenchError, faults: list[str]) -> str:
    name = NAMES.get(type(error), type(error).__name__)
    return f"**{name}: {'; '.join(faults)}**" if faults else name


def lines_of_two_nodes() -> list[str]:
    """Markdown: a row per fault, a column per rank phase and node."""
    if not _ON_TWO_NODES:
        return []
    places = [(phase, node) for phase in two_nodes.RANK_PHASES for node in NODES]
    text = [
        "### ddp, on two nodes",
        "",
        "| fault | " + " | ".join(f"{phase}, {node}" for phase, node in places) + " |",
        "|---" * (len(places) + 1) + "|",
    ]
    for fault in (*FAULTS, *two_nodes.NODE_FAULTS):
        cells = [_ON_TWO_NODES.get((fault, *place), ("-", 0.0))[0] for place in places]
        text.append(f"| {fault} | " + " | ".join(cells) + " |")
    slowest_s = max(took_s for _, took_s in _ON_TWO_NODES.values())
    text += ["", f"{len(_ON_TWO_NODES)} combinations; the slowest took {slowest_s:.1f} s."]
    return text


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
