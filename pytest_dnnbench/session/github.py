"""On GitHub Actions: the session's comparison on the page of the job, and an annotation at the test
of each case that got worse, that is noisy or disturbed, or that differs between two environments.

Texts of cases come from files, marks and ranks, so nothing of them may become a command of the
runner: every text is one printable line, and escaped as the runner's own toolkit does it. GitHub's
formats are described in its documentation, "Workflow commands for GitHub Actions".
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.results.records.saved import SavedRun
from pytest_dnnbench.results.records.schema import SCHEMA, Record, SessionEntry
from pytest_dnnbench.results.verdicts import compare_text, side_by_side_text
from pytest_dnnbench.results.verdicts.compare import SessionComparison
from pytest_dnnbench.results.verdicts.text import failure_message, notes_of, worst_change
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.baseline import SessionBaseline
from pytest_dnnbench.session.verdicts import Verdicts

MOST_ANNOTATIONS = 10
"""Of one kind that GitHub shows of a step. The last of more says how many there are."""

LARGEST_SUMMARY = 1024 * 1024
"""Bytes of a step's summary: a larger one is refused whole."""

_LINE_BREAK = "%0A"


class GitHub:
    """Adds to the job's page and writes annotations, at the end of a session that runs there."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._places: dict[str, tuple[str, int]] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes where each test stands, and whether it failed."""
        path, line, _ = report.location
        self._places[report.nodeid] = (path, (line or 0) + 1)
        if report.failed:
            self._failed.add(report.nodeid)

    def summary(self) -> list[tuple[str, str]]:
        """The annotations; writes the job's summary first."""
        records = benchmark_file.records(self._config)
        if not records or not self._is_on():
            return []
        lines = _limited(list(self._annotations(records)))
        if problem := _append(_markdown(records, self._comparison(records))):
            lines.append(_command("warning", {"title": "dnnbench"}, problem))
        return [(line, "") for line in lines]

    def _is_on(self) -> bool:
        if state.is_xdist_worker(self._config):
            return False
        choice = state.settings(self._config).github
        return choice == "on" or (choice == "auto" and os.environ.get("GITHUB_ACTIONS") == "true")

    def _annotations(self, records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
        """Kind and command of each annotation, errors first, then the most suspicious warnings."""
        worse = [name for name in records if name in self._failed]
        for name in worse:
            record = records[name]
            yield "error", self._annotation("error", name, record, _failure(record))
        first = sorted(records.items(), key=lambda each: -worst_change(each[1].verdict))
        for name, record in first:
            if name not in worse and (remarks := _remarks(record)):
                yield "warning", self._annotation("warning", name, record, "\n".join(remarks))
        for name, record in records.items():
            # Which of the sides is to be the faster one, nobody has said: it is no warning.
            if name not in worse and (called := side_by_side_text.called_lines(record)):
                yield "notice", self._annotation("notice", name, record, "\n".join(called))

    def _annotation(self, kind: str, name: str, record: Record, message: str) -> str:
        path, line = self._places.get(name, (name.partition("::")[0], 1))
        title = f"{record.measured_case.label}: {_outcome(kind, record)}"
        return _command(
            kind,
            {"file": _from_checkout(self._config.rootpath / path), "line": line, "title": title},
            message or title,
        )

    def _comparison(self, records: Mapping[str, Record]) -> SessionComparison | None:
        """The verdicts of this session, as `dnnbench compare` has those of two files."""
        baseline = state.part(self._config, SessionBaseline).current
        if baseline is None:
            return None
        return SessionComparison(
            baseline=baseline.name or "no stored session",
            now=SavedRun(Path("this session"), "", SessionEntry(schema=SCHEMA), dict(records)),
            verdicts={name: record.verdict for name, record in records.items()},
            only_baseline=state.part(self._config, Verdicts).lacking(),
            only_now=[],
            passed_over=baseline.passed_over,
        )


def _outcome(kind: str, record: Record) -> str:
    """What an annotation is about, in a few words: the verdict, or side B where that is it."""
    other, status = record.against, record.verdict.status
    if other is None or kind == "warning":
        return status
    if kind == "notice":
        return f"side {other.slower} is slower" if other.slower else "the sides differ"
    if status == "regressed" or not side_by_side_text.failure_of(other):
        return status
    return "side B failed" if other.failure is not None else "side B is worse than allowed"


def _failure(record: Record) -> str:
    """Why a case failed, as far as its record says: by its baseline, by the other side, or both."""
    verdict = record.verdict
    regressed = verdict.status == "regressed"
    reasons = [failure_message(record)] if regressed else notes_of(verdict)
    if unlike := side_by_side_text.side_failure_message(record):
        reasons = [*reasons, unlike]
    return "\n".join(reasons)


def _remarks(record: Record) -> list[str]:
    """What a case that did not fail deserves a warning for: a regression that is expected or
    accepted, noise, and disturbed launches."""
    verdict, remarks = record.verdict, []
    if verdict.status == "regressed":
        remarks.append(f"expected or accepted:\n{failure_message(record)}")
    if verdict.status == "noisy":
        remarks += notes_of(verdict)
    timed = next((name for name in (THROUGHPUT, "step_time_s") if name in record.metrics), None)
    disturbance = record.measured(timed).disturbance if timed else None
    if disturbance and not any(disturbance in remark for remark in remarks):
        remarks.append(disturbance)
    return remarks


def _limited(annotations: list[tuple[str, str]]) -> list[str]:
    """As many of a kind as GitHub shows; the last says how many more there are."""
    lines = []
    for kind in ("error", "warning", "notice"):
        of_kind = [command for each, command in annotations if each == kind]
        if len(of_kind) > MOST_ANNOTATIONS:
            more = len(of_kind) - (MOST_ANNOTATIONS - 1)
            rest = _command(kind, {"title": "dnnbench"}, f"{more} more cases: see the summary")
            of_kind = [*of_kind[: MOST_ANNOTATIONS - 1], rest]
        lines += of_kind
    return lines


def _command(kind: str, properties: Mapping[str, object], message: str) -> str:
    """A workflow command. Percent signs come first, or escapes would be escaped again."""
    shown = ",".join(
        f"{name}={_property(value).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
    )
    return f"::{kind} {shown}::{_LINE_BREAK.join(map(_property, message.splitlines()))}"


def _property(text: object) -> str:
    return one_line(text).replace("%", "%25")


def _from_checkout(path: Path) -> str:
    """The path as the repository has it; GitHub finds no other file."""
    checkout = Path(os.environ.get("GITHUB_WORKSPACE") or ".").resolve()
    resolved = path.resolve()
    return str(resolved.relative_to(checkout) if resolved.is_relative_to(checkout) else path)


def _markdown(records: Mapping[str, Record], comparison: SessionComparison | None) -> list[str]:
    """The parts of the job's summary, the most important first."""
    from pytest_dnnbench.report.captions import table_caption
    from pytest_dnnbench.report.functions import function_table
    from pytest_dnnbench.report.paste import markdown_tables, side_lines
    from pytest_dnnbench.report.rows import sections
    from pytest_dnnbench.report.side_by_side import side_table
    from pytest_dnnbench.report.table import study_of

    study = study_of(records)
    sides, parts = side_table(study), list[str]()
    if comparison is not None:
        parts.append(compare_text.markdown(comparison))
    if sides is not None:
        parts.append("\n".join(side_lines(sides)))
    figures = markdown_tables(sections(study), function_table(study), None, table_caption(study))
    if not parts:
        return [f"### Benchmarks: no baseline\n\n{figures}"]
    return [*parts, f"<details><summary>all figures</summary>\n\n{figures}\n</details>"]


def _append(parts: list[str]) -> str | None:
    """Appends to the job's summary what there is room for. What is wrong, if it cannot be: that
    changes nothing in the session's outcome."""
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if not target:
        return None
    try:
        with Path(target).open("ab") as file:
            room = LARGEST_SUMMARY - file.tell()
            file.write(_fitting(parts, room))
    except OSError as error:
        return f"the summary was not written: {error.strerror}"
    return None


def _fitting(parts: list[str], room: int) -> bytes:
    """The parts that fit whole; of the first, else, as many lines as fit."""
    for count in range(len(parts), 0, -1):
        whole = ("\n" + "\n\n".join(parts[:count]) + "\n").encode()
        if len(whole) <= room:
            return whole
    note = b"\n\nThe rest does not fit into a summary.\n"
    cut = parts[0].encode()[: max(room - len(note) - 1, 0)].rpartition(b"\n")[0]
    return b"\n" + cut + note if cut else b""
