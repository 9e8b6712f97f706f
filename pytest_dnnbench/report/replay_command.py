"""`dnnbench replay`: measures a case again as its record says, and compares losses and speed."""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pytest_dnnbench.argument_list import add_list
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.harmless import say
from pytest_dnnbench.report.replay import lacking, losses_text, variables_of
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.results.baselines.stored_sessions import StoredRuns
from pytest_dnnbench.results.records.saved import SavedRun, read_saved
from pytest_dnnbench.results.records.schema import SCHEMA, SessionEntry
from pytest_dnnbench.results.records.verdict import Verdict
from pytest_dnnbench.results.statistics.false_alarms import FALSE_ALARMS
from pytest_dnnbench.results.verdicts import compare_text
from pytest_dnnbench.results.verdicts.compare import compare
from pytest_dnnbench.starting import started

_FILES = {"mnist": ("--data-dir", "DIR"), "text": ("--text", "FILE")}


def main(arguments: list[str]) -> int:
    """Exit status: 0 no slower than the record; 1 slower, or the case failed. Raises UsageError
    for a record that cannot be replayed here, with all that is lacking."""
    options = _parser().parse_args(arguments)
    path, _, name = options.record.partition("::")
    result = _chosen(read_saved(Path(path)), path, name)
    across: list[str] = options.across
    variables = variables_of(result, os.environ, across)
    _refuse_lacking(result, [*lacking(result, across), *variables.refused])
    with tempfile.TemporaryDirectory(prefix="dnnbench-replay-") as folder:
        measured = Path(folder) / "now.json"
        words = [*_words(result, options, Path(folder)), "--benchmark-json", str(measured)]
        say(f"+ {shlex.join([*variables.words, 'pytest', *words])}", sys.stderr)
        ended = started(
            lambda: subprocess.run(
                [sys.executable, "-m", "pytest", *words], env=variables.of(os.environ), check=False
            )
        )
        if not measured.exists() or not measured.stat().st_size:
            raise UsageError(
                f"the case was not measured (pytest ended with {ended.returncode}): see its output"
                " above; run this command in the folder that the record's test lies in"
            )
        return _compared(result, read_saved(measured), across) or int(ended.returncode != 0)


def _chosen(run: SavedRun, path: str, name: str) -> Result:
    """The case of that name, or of a name that only one case has in it; the only case without."""
    matches = [each for each in run.cases if name in (each, each.partition("::")[2])] or [
        each for each in run.cases if name in each
    ]
    if len(matches) != 1:
        listed = ", ".join((matches or list(run.cases))[:6])
        raise UsageError(
            f"{path}::{name} names {len(matches)} cases: write {path}::CASE with one of {listed}"
        )
    record = run.cases[matches[0]]
    if record.case is None:
        raise UsageError(
            f"{matches[0]} is a timed function: its test says what it runs, so run that test"
        )
    return Result(matches[0], record)


def _refuse_lacking(result: Result, missing: Sequence[str]) -> None:
    if missing:
        raise UsageError(
            f"{result.name} cannot be replayed as it was: {'; '.join(missing)}. Provide these, or"
            " name what may differ with --across, as in torch,cpu,variables"
        )


def _words(result: Result, options: argparse.Namespace, folder: Path) -> list[str]:
    """The arguments of pytest: those of the record, the user's files, and the recorded plan."""
    words = [*shlex.split(command(result))[1:], "--dnn-github", "off"]
    if (needed := _FILES.get(result.case.dataset)) is not None:
        path = options.data_dir if result.case.dataset == "mnist" else options.text
        if path is None:
            raise UsageError(
                f"the case read {result.case.dataset} data: say where they lie here, with"
                f" {needed[0]} {needed[1]}"
            )
        words[words.index(needed[1])] = path
    if result.record.plan is not None and result.record.plan.decided_by == "planner":
        plan = folder / "plan.json"
        plan.write_text(result.record.plan.plan.to_json())
        words += ["--dnn-plan", str(plan)]
    return words


def _compared(result: Result, now: SavedRun, across: Sequence[str]) -> int:
    """Says what became of losses and speed; 1 where the case is slower than in its record."""
    (again,) = now.cases.values()
    say(losses_text(result.record, again, result.case.precision))
    # Whatever was said of the record then: here it is the reference.
    record = msgspec.structs.replace(result.record, verdict=Verdict())
    entry = SessionEntry(schema=SCHEMA)
    then = SavedRun(Path("the record"), "", entry, {result.name: record})
    comparison = compare(
        StoredRuns((), newest=then),
        msgspec.structs.replace(now, path=Path("now"), cases={result.name: again}),
        layers=[],
        false_alarms=FALSE_ALARMS,
        across=[*across, *(["options.plan"] if record.plan else [])],
    )
    say(compare_text.plain(comparison))
    for metric, judged in comparison.verdicts[result.name].metrics.items():
        low, high = judged.interval
        say(f"{metric}: {judged.change:+.1%} (95% interval {low:+.1%} to {high:+.1%})")
    return int(bool(comparison.regressed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench replay",
        description="Measure a case again with the options, seed, plan and variables of its record;"
        " say where the losses part, and compare the speed.",
    )
    parser.add_argument(
        "record", metavar="FILE[::CASE]", help="a saved session, and one of its cases"
    )
    add_list(
        parser,
        "--across",
        "FACT,...",
        "facts that may differ from the record's, as in torch,cpu,variables",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="the folder with the MNIST files")
    parser.add_argument("--text", metavar="FILE", help="the file of a text data set")
    return parser
