"""What came of the checks of this folder, written into two files after each of them: a run that is
cut loses nothing."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NOT_RUN = "not run"


@dataclass
class Outcome:
    """Of one check: "passed", "failed", "skipped" or NOT_RUN, its seconds with what it set up, the
    whole message where it did not pass, and figures by name."""

    check: str
    outcome: str
    seconds: float = 0.0
    message: str = ""
    figures: dict[str, object] = field(default_factory=dict)


class Outcomes:
    """Those of a run, in JSON and in Markdown, in `folder`."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = dict(facts)
        self._all: dict[str, Outcome] = {}

    def expect(self, checks: list[str]) -> None:
        """These checks are to run: until then they have not."""
        self._all = {
            name: Outcome(name, NOT_RUN, message="the run ended before") for name in checks
        }
        self.write()

    def of(self, check: str) -> Outcome:
        """The outcome of a check, to be changed."""
        return self._all.setdefault(check, Outcome(check, NOT_RUN))

    @property
    def left(self) -> list[Outcome]:
        """The checks that have not run."""
        return [each for each in self._all.values() if each.outcome == NOT_RUN]

    def write(self) -> None:
        """Writes both files anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checks = [asdict(each) for each in self._all.values()]
        content = json.dumps({**self.facts, "checks": checks}, indent=1, default=str)
        _replace(self.folder / "gpu-test.json", f"{content}\n")
        _replace(self.folder / "gpu-test.md", self._markdown())

    def _markdown(self) -> str:
        counts = [
            f"{sum(each.outcome == kind for each in self._all.values())} {kind}"
            for kind in ("passed", "failed", "skipped", NOT_RUN)
        ]
        lines = ["# Checks on a GPU", "", f"{', '.join(counts)}.", ""]
        lines += [f"- {name}: {_cell(value)}" for name, value in self.facts.items()]
        lines += ["", "| check | outcome | s | figures |", "|---|---|---|---|"]
        for each in self._all.values():
            figures = ", ".join(f"{name} {_number(value)}" for name, value in each.figures.items())
            lines.append(
                f"| {_cell(each.check)} | {each.outcome} | {each.seconds:.1f} | {_cell(figures)} |"
            )
        for each in self._all.values():
            if each.message:
                lines += ["", f"## {each.check}: {each.outcome}", "", *_quoted(each.message)]
        return "\n".join([*lines, ""])


def _quoted(message: str) -> list[str]:
    """A message as a block of code: indented, since it may hold any fence."""
    return [f"    {line}" for line in message.splitlines()]


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _replace(path: Path, content: str) -> None:
    """Puts content into a file whole: whoever reads it meanwhile sees what was there before."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(content)
    os.replace(beside, path)
