"""What is going to be written is looked at before the work."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_dnnbench import outputs
from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import UsageError


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("no/such/a.json", "No such file or directory"),
        ("file/a.json", "Not a directory"),
        (".", "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_with_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, cause: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(UsageError) as refused:
        outputs.check_file("-o", Path(path))
    assert str(refused.value) == (
        f"-o {path} cannot be written ({cause}): name a file in a folder that can be written to"
    )


def test_what_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    outputs.check_file("-o", tmp_path / "a.json")
    outputs.check_file("-o", tmp_path / "b.json")
    outputs.check_folder("-o", tmp_path / "not" / "yet")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]
    outputs.make_folder("-o", tmp_path / "not" / "yet")
    assert (tmp_path / "not" / "yet").is_dir()


@contextmanager
def no_room() -> Iterator[None]:
    """Files of this process take no byte more, as on a full disk. For a moment only: pytest's own
    output may go to a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_without_room_is_refused_although_it_takes_an_empty_file(tmp_path: Path) -> None:
    for check in (outputs.check_folder, outputs.make_folder):
        with pytest.raises(UsageError) as refused, no_room():
            check("--x", tmp_path)
        assert f"--x {tmp_path} cannot be written to (File too large)" in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["profile", "--model", "mlp", "-o", "no/such/a.json"],
        ["report", "absent.json", "-o", "file"],
        ["report", "absent.json", "-o", "out", "--picture", "no/such/a.png"],
        ["report", "absent.json", "-o", "out", "--latex", "no/such/a.tex"],
        ["export", "absent.json", "--to", "bencher", "-o", "file"],
    ],
)
def test_commands_look_at_their_outputs_before_they_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    """Before they read a file, which is not there, or profile a model."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setattr(
        "pytest_dnnbench.rank.profiling.command.profile_model", lambda *_, **__: 1 / 0
    )
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert f"{arguments[-2]} {arguments[-1]}" in error


def test_a_machine_is_not_measured_for_a_fingerprint_that_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("pytest_dnnbench.machine.command.measure_machine", lambda *_, **__: 1 / 0)
    assert main(["machine", "--quick"]) == 2
    folder = os.path.join("file", "pytest-dnnbench", "machine")
    assert f"{folder} cannot be written to (Not a directory)" in capsys.readouterr().err


def test_a_golden_file_in_no_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["baseline", "update", "no/such/golden.json", "absent.json"]) == 2
    assert "the golden file no/such/golden.json cannot be written (No such" in (
        capsys.readouterr().err
    )
