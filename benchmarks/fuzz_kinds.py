"""The kinds of file that the fuzzer mutates: for each a few valid files, those that may be mutated,
and what reads them.

A reader may do two things with a mutated file: work, or refuse it in one printable line that names
it. All else is a fault. Not here: the valid files (fuzz_files.py), the mutations
(fuzz_mutations.py), and the loop over them (fuzz.py).
"""

import contextlib
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import fuzz_files
from benchmarks.fuzz_files import Files
from benchmarks.fuzz_mutations import mutated_bytes, mutated_json, mutated_lines
from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DnnbenchError, PlanError
from pytest_dnnbench.harmless import LONGEST_REFUSAL, one_line, refusal
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.mnist_files import find_mnist
from pytest_dnnbench.planner.options import stages_fit
from pytest_dnnbench.report.captions import caption
from pytest_dnnbench.report.functions import function_table
from pytest_dnnbench.report.nodes import nodes_table
from pytest_dnnbench.report.page import page_html
from pytest_dnnbench.report.paste import csv_table, markdown_tables
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import read_run
from pytest_dnnbench.report.side_by_side import side_table
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.table import table_lines
from pytest_dnnbench.results.baselines.baseline_source import load_baseline
from pytest_dnnbench.results.baselines.comparability import facts_of
from pytest_dnnbench.results.records.launches import launches_of
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.schema import Environment
from pytest_dnnbench.results.verdicts.judge import judge, limits_of
from pytest_dnnbench.results.verdicts.text import notes_of
from pytest_dnnbench.session.journal import NAME as JOURNAL
from pytest_dnnbench.session.journal import open_journal
from pytest_dnnbench.session.journaled_launches import KeptLaunches
from tests.results.synthetic import NAME, record

Mutation = Callable[[bytes, random.Random], bytes]

_BOTH: tuple[Mutation, ...] = (mutated_bytes, mutated_json, mutated_json)


class Unclear(Exception):
    """A refusal that does not say in one printable line which file is wrong, or another exit
    status than that of a refusal."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`mutated` names the files of which one is mutated each time; none: any of them. `read` reads
    them in a folder. `share`: how often the kind is drawn, where most have 1."""

    name: str
    files: Files
    read: Callable[[Path, random.Random], None]
    mutations: tuple[Mutation, ...] = _BOTH
    mutated: tuple[str, ...] = ()
    share: float = 1.0


def all_kinds() -> list[Kind]:
    """Every kind of file that this package reads."""
    saved, golden = fuzz_files.saved_files(), fuzz_files.golden_file()
    profile = fuzz_files.profile()
    return [
        Kind("compare", saved, _compare),
        Kind("baseline", saved | golden, _baseline, mutated=("a.json",)),
        Kind("golden", saved | golden, _golden, mutated=("golden.json",)),
        Kind("storage", fuzz_files.storage(), _storage),
        Kind("tables", saved, _tables),
        Kind("report", saved, _report, share=0.02),
        Kind("profile", {"profile": profile}, _profile),
        Kind("text", {"profile": fuzz_files.profile_text()}, _profile, (mutated_bytes,)),
        Kind("plan", {"plan.json": fuzz_files.plan()}, _plan),
        Kind("journal", {JOURNAL: fuzz_files.journal()}, _journal, (mutated_bytes, mutated_lines)),
        Kind("mnist", fuzz_files.mnist(), _mnist, (mutated_bytes,), share=0.3),
        Kind("arguments", saved | {"profile": profile}, _arguments, ()),
    ]


def command(*arguments: object, named: str = "", status: tuple[int, ...] = (0,)) -> None:
    """Runs `dnnbench` in this process. Raises Unclear where it neither ends with one of these
    statuses nor refuses, in one line that has `named` in it."""
    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        try:
            ended = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse, with lines of its own
            if end.code != 2:
                raise Unclear(f"exit status {end.code}") from None
            return
    _check_printable(output.getvalue())
    if ended in status:
        return
    if ended != 2:
        raise Unclear(f"exit status {ended}")
    line = error.getvalue().removesuffix("\n")
    if not line.isprintable() or len(line) > 2 * LONGEST_REFUSAL or named not in line:
        raise Unclear(f"refused with {line[:300]!r}, which should name {named!r} in one line")


def _check_printable(text: str) -> None:
    for line in text.split("\n"):
        if not line.isprintable():
            raise Unclear(f"shows {line[:300]!r}")


def _refusal(error: DnnbenchError, named: str) -> None:
    """Where no command turns the error into a line."""
    if named not in refusal(error) or not str(error):
        raise Unclear(f"refused with {str(error)[:300]!r}, which should name {named!r}") from error


def _compare(folder: Path, chance: random.Random) -> None:
    form = chance.choice(([], ["--markdown"], ["--json"], ["--limits", "throughput=-5%,loss=<=1"]))
    a, b = folder / "a.json", folder / "b.json"
    command("compare", *chance.sample((a, b), 2), *form, named=str(folder), status=(0, 1))


def _baseline(folder: Path, chance: random.Random) -> None:
    a, golden = folder / "a.json", folder / "golden.json"
    actions = (
        ("accept", a, "--reason", "a safer kernel"),
        ("update", golden, a),
        ("update", folder / "new.json", a),
        ("accept", golden, a, "--reason", "\x1b[31mred\n"),
    )
    command("baseline", *chance.choice(actions), named=str(a))
    for made in (golden, folder / "new.json"):  # whatever was taken over can be read again
        if made.exists():
            command("baseline", "show", made, named="nothing to refuse")


def _golden(folder: Path, chance: random.Random) -> None:
    a, golden = folder / "a.json", folder / "golden.json"
    choice = chance.randrange(4)
    if choice == 0:
        command("baseline", "update", golden, a, named=str(folder))  # a may have other facts
    elif choice == 1:
        command("compare", golden, a, "--json", named=str(golden), status=(0, 1))
    elif choice == 2:
        command("compare", golden, a, named=str(golden), status=(0, 1))
    command("baseline", "show", golden, named=str(golden))


def _storage(folder: Path, chance: random.Random) -> None:
    """A damaged file among the stored ones is passed over: nothing may be raised here."""
    baseline = load_baseline("latest", folder)
    now = record(seed=99)
    stored = baseline.of(NAME, facts_of(now))
    measured = {metric: now.measured(metric) for metric in now.metrics}
    verdict = judge(measured, stored, limits_of(now.metrics, stored, []), 1e-4).verdict
    for text in (*baseline.passed_over, *notes_of(verdict), *baseline.names()):
        if not one_line(text):
            raise Unclear(f"says {text!r}")


def _tables(folder: Path, chance: random.Random) -> None:
    """All that a report shows but its plots."""
    try:
        runs = [read_run(folder / name) for name in ("a.json", "b.json")]
    except DnnbenchError as error:
        return _refusal(error, ".json")
    study = Study(runs)
    for line in table_lines(study, chance.choice((20, 80, 200))):
        _check_printable(line.text)
    parts = sections(study)
    tables = (function_table(study), side_table(study), caption(study), nodes_table(study))
    _check_printable(markdown_tables(parts, *tables))
    csv_table(parts, study)
    page_html(study, parts, [], "Benchmark report").encode()
    return None


def _report(folder: Path, chance: random.Random) -> None:
    command(
        "report", folder / "a.json", folder / "b.json", "-o", folder / "report", named=str(folder)
    )


def _profile(folder: Path, chance: random.Random) -> None:
    """One file is named on the command line: what cannot be planned need not name it again."""
    profile = folder / "profile"
    options = chance.choice(([], ["--json"], ["--cost-model", "original"], ["--memory", "3e9"]))
    gpus = chance.choice((["4", "--bandwidth", "1e9"], ["2x2", "--bandwidth", "1e9,1e8"]))
    command("plan", "--profile", profile, "--gpus", *gpus, *options, status=(0, 1))


def _plan(folder: Path, chance: random.Random) -> None:
    path = folder / "plan.json"
    try:
        for variant in ("pipedream", "pipedream-flush"):
            stages_fit(variant, 3, {"plan": str(path), "microbatches": chance.choice((0, 4))})
    except PlanError as error:
        _refusal(error, "plan")


def _journal(folder: Path, chance: random.Random) -> None:
    path = folder / JOURNAL
    try:
        journal = open_journal(folder, fuzz_files.HEAD, True, lambda line: None)
        assert journal is not None
        try:
            case = fuzz_files.CASE
            request = RunRequest(case, "my:Worker", "m", 2, 1)
            run: Any = SimpleNamespace(request=request, correctness=None, launches=[])
            KeptLaunches(journal).restore("test_a", run)
        finally:
            journal.close()
    except DnnbenchError as error:
        return _refusal(error, "--dnn-resume" if "--dnn-resume: " in str(error) else str(path))
    if not run.launches:
        return None
    measurement = Measurement(
        case, tuple(run.launches), run.correctness, Environment(must_match={}), False, 2, 1
    )
    made = make_record(measurement)
    for metric, entry in made.metrics.items():
        launches_of(metric, entry.per_launch, made.reasons)
    return None


def _mnist(folder: Path, chance: random.Random) -> None:
    try:
        find_mnist(folder)
    except DnnbenchError as error:
        _refusal(error, str(folder))


def _arguments(folder: Path, chance: random.Random) -> None:
    """Numbers and lists of the command line."""
    a, b, profile = folder / "a.json", folder / "b.json", folder / "profile"
    text = _argument(chance)
    choices = (
        ("compare", a, b, "--limits", f"throughput={text}"),
        ("compare", a, b, "--limits", text),
        ("compare", a, b, "--across", text),
        ("compare", a, b, "--false-alarms", text),
        ("compare", text, b),
        ("plan", "--profile", profile, "--gpus", text, "--bandwidth", "1e9"),
        ("plan", "--profile", profile, "--gpus", "2", "--bandwidth", text),
        ("plan", "--profile", profile, "--gpus", "2", "--bandwidth", "1e9", "--memory", text),
        ("report", a, "-o", folder / "report", "--models", text),
        ("baseline", "show", text),
    )
    arguments = chance.choice(choices)
    if arguments[0] == "report" and text in ("", "m", "resnet18"):
        return  # a whole report, which is another kind's
    command(*arguments, status=(0, 1))


def _argument(chance: random.Random) -> str:
    number = f"{chance.choice(('', '-', '+'))}{chance.choice((0, 1, 2, 3, 7, 1e9, 5.5))}"
    parts = (
        number, "e-320", "e308", "e999", "nan", "inf", "%", ">=", "<=", "x", ",", ".", " ", "GiB",
        "off", "auto", "throughput", "loss", "\x1b[31m", "\n", "\udcff", "\u202e", "9" * 5000, "/",
        "torch", "data", "\0", "_",
    )  # fmt: skip
    return "".join(chance.choices(parts, k=chance.choice((0, 1, 1, 2, 2, 3))))
