"""Named facts of a record as text: environment, settings, and the evidence of correctness."""

from collections.abc import Mapping

from pytest_dnnbench.report.text import printable
from pytest_dnnbench.results.records.schema import CorrectnessEntry

LINE_LENGTH = 2000
"""Characters of a line that lists facts."""


def fact_line(facts: Mapping[str, object]) -> str:
    """Names and values in one line; a fact without a value is left out."""
    shown = [f"{_words(name)} {value}" for name, value in facts.items() if value is not None]
    return printable(", ".join(shown), LINE_LENGTH)


def evidence(correctness: CorrectnessEntry) -> list[str]:
    """What was checked about the step: the largest deviation of each kind beside its tolerance,
    whether the ranks agree, and how it was checked."""
    lines = []
    for kind, deviation in correctness.largest_deviation.items():
        tolerance = correctness.tolerance.get(kind)
        allowed = "" if tolerance is None else f", allowed {tolerance:.0e}"
        lines.append(f"{kind}: largest deviation {deviation:.1e}{allowed}")
    if correctness.ranks_agree:
        lines.append(f"ranks agree {correctness.ranks_agree}")
    lines += [f"{_words(name)}: {value}" for name, value in correctness.about.items()]
    return [printable(line) for line in lines]


def _words(name: str) -> str:
    return name.replace("_", " ")
