"""A little of the fuzzer in every run of the tests: benchmarks/fuzz.py makes millions."""

from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz import fuzz
from benchmarks.fuzz_kinds import Kind, all_kinds, command

KINDS = {kind.name: kind for kind in all_kinds()}
INPUTS = {"report": 3}
"""Of the kinds whose inputs take longest; of the others 200."""


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str) -> None:
    faults = list(fuzz(KINDS[name], range(INPUTS.get(name, 200))))
    assert not faults, f"python -m benchmarks.fuzz --only {name}:{faults[0].seed}"


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].mutations])
def test_the_files_are_valid_before_they_are_damaged(name: str, tmp_path: Path) -> None:
    """Otherwise nothing behind the first check would ever be reached."""
    kind = KINDS[name]
    for file, content in kind.files.items():
        tmp_path.joinpath(file).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.fuzz_kinds._refusal", _fail)
        patch.setattr("benchmarks.fuzz_kinds.command", _must_succeed)
        kind.read(tmp_path, Random(0))


def _fail(error: Exception, named: str) -> None:
    raise AssertionError(f"refused: {error}")


def _must_succeed(*arguments: object, named: str = "", status: tuple[int, ...] = (0,)) -> None:
    command(*arguments, named="no line of an error has this in it", status=status)


def _reader_with_a_fault(folder: Path, chance: Random) -> None:
    if b"\n" in folder.joinpath("file").read_bytes():
        command("schema", "--nonsense")
    else:
        raise KeyError("a reader that forgets to check")


def test_the_fuzzer_sees_a_reader_that_forgets_to_check() -> None:
    kind = Kind("planted", {"file": b'{"a": [1, 2, 3], "b": "text"}'}, _reader_with_a_fault)
    faults = list(fuzz(kind, range(50)))
    assert 0 < len(faults) <= 50
    assert {fault.error for fault in faults} == {"KeyError: 'a reader that forgets to check'"}
    assert [fault.seed for fault in fuzz(kind, [faults[0].seed])] == [faults[0].seed]


def test_the_fuzzer_sees_a_traceback_instead_of_a_refusal() -> None:
    def read(folder: Path, chance: Random) -> None:
        command("compare", folder / "file", folder / "file", named="another file")

    [fault] = fuzz(Kind("planted", {"file": b"{}"}, read), [0])
    assert fault.error.startswith("Unclear: refused with 'dnnbench compare: ")
