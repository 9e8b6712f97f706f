"""`dnnbench horovod` leaves a Horovod that works alone, whoever built it."""

from pathlib import Path

import pytest

from pytest_dnnbench.errors import BuildError
from pytest_dnnbench.horovod_build import command


@pytest.fixture
def foreign_horovod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path by which Horovod 0.28.1 seems to be installed by other means."""
    folder = tmp_path / "site"
    about = folder / "horovod-0.28.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: horovod\nVersion: 0.28.1\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_nothing_is_done_if_the_right_horovod_is_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--check"]) == 0
    assert command.main([]) == 0
    assert capsys.readouterr().out.count("is installed.") == 2


@pytest.mark.usefixtures("foreign_horovod")
def test_check_says_what_to_run_if_it_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("Horovod is 0.28.1; 0.28.1+torch")
    assert "run `dnnbench horovod`" in output


@pytest.mark.usefixtures("foreign_horovod")
def test_a_foreign_horovod_that_loads_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert "loads and stays (gloo True" in capsys.readouterr().out


def test_a_foreign_horovod_that_does_not_load_is_reported(
    foreign_horovod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (foreign_horovod / "horovod").mkdir()
    (foreign_horovod / "horovod" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(foreign_horovod), prepend=":")
    with pytest.raises(BuildError, match="does not load: replace it with --force"):
        command.main([])
