"""`--dnn-report`: a page at the end of a session, whatever became of the session; and never at its
cost."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_launches import CONFTEST

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
FAILS = """
def test_breaks():
    assert False, "<b>told on the page</b>"
"""
ONE_CASE = (
    "--dnn-frameworks=single",
    "--dnn-device=cpu",
    "--dnn-models=tests.tiny_models:tiny",
    "--dnn-launches=2",
    "--dnn-steps=2",
    "--benchmark-json=out.json",
)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session in a process of its own, with launches that are made up."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makeconftest(CONFTEST)
    return lambda *arguments: pytester.runpytest_subprocess(*arguments)


def test_a_session_leaves_a_page_with_its_cases_and_its_failures(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest("")  # real ranks, whose peak is the resident memory
    pytester.makepyfile(test_cases=CASES + FAILS)
    result = run(*ONE_CASE, "--dnn-report=report")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["dnnbench report: report/index.html"])
    page = pytester.path.joinpath("report", "index.html").read_text()
    assert "test_train[single-tests.tiny_models:tiny-1gpu]" in page
    assert "test_cases.py::test_breaks" in page
    assert "&lt;b&gt;told on the page" in page
    assert "peak resident per rank" in page
    assert len(json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]) == 1


def test_a_report_that_fails_costs_neither_results_nor_status(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_cases=CASES)
    pytester.makeconftest(
        f"{CONFTEST}\nimport shutil\ndef pytest_sessionfinish():\n    shutil.rmtree('report')\n"
        "    open('report', 'w').close()\n"
    )
    result = run(*ONE_CASE, "--dnn-report=report")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["dnnbench: no report was written: report cannot be written to (*): give another folder*"]
    )
    assert len(json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]) == 1


def test_a_folder_that_cannot_be_written_ends_the_session_before_anything_is_measured(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_cases=CASES)
    pytester.path.joinpath("file").write_text("")
    result = run(*ONE_CASE, "--dnn-report=file/report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --dnn-report file/report cannot be written to (Not a directory): give another*"]
    )


def test_only_failures_give_a_page_that_says_so(run: Any, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_fails=FAILS)
    assert run("--dnn-report=report").ret == 1
    assert (
        "Every case of this run failed"
        in pytester.path.joinpath("report", "index.html").read_text()
    )


def test_without_matplotlib_the_error_names_the_command(
    run: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.mkpydir("matplotlib").joinpath("__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{pytester.path}:{Path(__file__).resolve().parents[2]}")
    result = run("--dnn-report=report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: plots need matplotlib: run `pip install 'pytest-dnnbench?report?'`"]
    )
