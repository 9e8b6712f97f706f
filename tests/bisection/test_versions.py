"""Versions between two: those of an index, those of a list; and the environments of the sides."""

import sys
from pathlib import Path

import pytest

from pytest_dnnbench.bisection import versions
from pytest_dnnbench.bisection.comparing import CannotMeasure
from pytest_dnnbench.bisection.kept_search import VersionsOf
from pytest_dnnbench.bisection.versions import (
    Environments,
    released_versions,
    versions_between,
)
from pytest_dnnbench.errors import UsageError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of one package, on this disk."""
    folder = tmp_path / "index" / "slowlib"
    folder.mkdir(parents=True)
    names = [f"slowlib-{each}-py3-none-any.whl" for each in ("0.9", "0.10", "1.0", "1.1rc1")]
    links = "".join(f'<a href="{name}">{name}</a>' for name in names)
    folder.joinpath("index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    monkeypatch.setenv("PIP_INDEX_URL", folder.parent.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


@pytest.mark.usefixtures("index")
def test_the_index_gives_the_versions_in_their_order() -> None:
    assert released_versions("slowlib") == ["0.9", "0.10", "1.0"]
    assert released_versions("slowlib", pre=True) == ["0.9", "0.10", "1.0", "1.1rc1"]
    with pytest.raises(UsageError, match=r"pip cannot list the versions of nolib: .*--versions"):
        released_versions("nolib")
    with pytest.raises(UsageError, match="pip cannot list the versions of --help"):
        released_versions("--help")


def test_versions_from_good_to_bad() -> None:
    listed = ["0.9", "0.10", "1.0", "1.1"]
    assert versions_between(listed, "0.10", "1.1") == ["0.10", "1.0", "1.1"]
    assert versions_between(listed, "", "") == listed
    assert versions_between(listed, "1.0", "0.9") == ["1.0", "0.10", "0.9"], "a loss by going back"
    for good, bad, said in (
        ("2.0", "1.1", "--good 2.0 is not among 0.9, 0.10, 1.0, 1.1"),
        ("1.0", "1.0", "are the same version"),
    ):
        with pytest.raises(UsageError, match=said):
            versions_between(listed, good, bad)
    with pytest.raises(UsageError, match=r"--versions has 0\.9 twice"):
        versions_between(["0.9", "1.0", "0.9"], "0.9", "1.0")


def test_pytest_runs_in_the_environment_of_the_earlier_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(requirements: list[str], _announce: object) -> str:
        if requirements == ["slowlib==1.0"]:
            raise UsageError("no wheel of it")
        return f"/made/{requirements[0]}/bin/python"

    monkeypatch.setattr(versions, "made_environment", made)
    sides = Environments(VersionsOf("slowlib"), lambda _: None)
    arguments = sides.arguments("0.9", "0.10")
    assert arguments.python == "/made/slowlib==0.9/bin/python"
    assert arguments.options == ("--dnn-against", "slowlib-0.10=/made/slowlib==0.10/bin/python")
    with pytest.raises(CannotMeasure, match=r"1\.0: no wheel of it"):
        sides.arguments("0.9", "1.0")
    assert sys.executable not in arguments.python
