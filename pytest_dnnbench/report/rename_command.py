"""`dnnbench rename`: gives the cases of a renamed or moved test their new name in saved sessions
and golden files, so that they keep baseline and history."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.harmless import say
from pytest_dnnbench.outputs import check_file
from pytest_dnnbench.results.baselines.golden_file import golden_text, is_golden, read_golden
from pytest_dnnbench.results.baselines.session_files import add_paths, session_files
from pytest_dnnbench.results.records.json_text import any_json, read_bytes


@dataclass(frozen=True, slots=True)
class Renaming:
    """A test, or a file of tests, and its new name."""

    old: str
    new: str

    def check(self) -> None:
        """Raises UsageError for what cannot be two names of one test, or of one file of tests."""
        for name in (self.old, self.new):
            if not name or not name.isprintable():
                raise UsageError(f"{name!r} is not the name of a test: give one as pytest shows it")
        if self.old == self.new:
            raise UsageError(f"{self.old} is the old name and the new one: give two names")
        if ("::" in self.old) != ("::" in self.new):
            file, test = sorted((self.old, self.new), key=lambda name: "::" in name)
            raise UsageError(f"{file} is a file and {test} a test in one: name two tests or files")

    def of(self, name: str) -> str:
        """The new name of a case: of the test itself, with its parameters, or of a test in the
        file; the same name for any other case."""
        if name == self.old or name.startswith((f"{self.old}[", f"{self.old}::")):
            return self.new + name[len(self.old) :]
        return name


def main(arguments: list[str]) -> int:
    """Exit status 0. Nothing is written unless every file can be read, renamed and written: raises
    DataError for one that cannot be read or renamed, UsageError for one that cannot be written, for
    names that cannot be meant, and where no file has such a case."""
    options = _parser().parse_args(arguments)
    renaming = Renaming(options.old, options.new)
    renaming.check()
    # Each file is read again where it is written: a storage may be larger than the memory.
    counts = {path: _renamed(path, renaming)[0] for path in session_files(options.paths)}
    changed = [path for path, count in counts.items() if count]
    if not changed:
        raise UsageError(f"no case of these files is of {options.old}: name a test or a test file")
    for path in changed:
        check_file("PATH", path.resolve())
    for path in changed:
        replace_file(path.resolve(), _renamed(path, renaming)[1])  # a link stays a link
    say(f"{counted(sum(counts.values()), 'case')} renamed in {counted(len(changed), 'file')}")
    return 0


def _renamed(path: Path, renaming: Renaming) -> tuple[int, str]:
    """How many cases of a file have a new name, and the file with it."""
    content = read_bytes(path)
    if is_golden(content):
        return _renamed_golden(path, renaming)
    saved = any_json(path, content)
    benchmarks = saved.get("benchmarks") if isinstance(saved, dict) else None
    if not isinstance(benchmarks, list) or not all(isinstance(each, dict) for each in benchmarks):
        raise DataError(f"{path} is neither a saved session nor a golden file")
    names = [str(each.get("fullname")) for each in benchmarks]
    session: Any = saved.get("dnnbench")
    failed: list[str] = []
    if isinstance(session, dict) and isinstance(session.get("failed"), list):
        failed = [str(name) for name in session["failed"]]
        session["failed"] = [renaming.of(name) for name in failed]
    for benchmark, name in zip(benchmarks, names, strict=True):
        if renaming.of(name) != name:
            benchmark["fullname"] = renaming.of(name)
            benchmark["name"] = _without_file(renaming.of(name))
    return _count(path, {*names, *failed}, renaming), json.dumps(saved, indent=4)


def _without_file(name: str) -> str:
    """The name of a case as pytest shows it within its file or class."""
    test, bracket, parameters = name.partition("[")
    return test.rpartition("::")[2] + bracket + parameters


def _renamed_golden(path: Path, renaming: Renaming) -> tuple[int, str]:
    golden = read_golden(path)
    count = _count(path, set(golden.names()), renaming)
    golden.cases = {renaming.of(name): case for name, case in golden.cases.items()}
    golden.accepted = [
        msgspec.structs.replace(each, cases=tuple(map(renaming.of, each.cases)))
        for each in golden.accepted
    ]
    return count, golden_text(golden)


def _count(path: Path, names: set[str], renaming: Renaming) -> int:
    """How many of a file's cases get a new name. Raises DataError for one that the file has."""
    renamed = {renaming.of(name) for name in names if renaming.of(name) != name}
    if there := sorted(renamed & names):
        raise DataError(f"{path} has a case {there[0]} already: two cases cannot have one name")
    return len(renamed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench rename",
        description="Give the cases of a renamed or moved test their new name in saved files.",
    )
    parser.add_argument("old", metavar="OLD", help="as in bench_cases/test_steps.py::test_train")
    parser.add_argument("new", metavar="NEW", help="the new name of this test or test file")
    add_paths(parser, about="a saved file, a golden file, or the folder of --benchmark-storage")
    return parser
