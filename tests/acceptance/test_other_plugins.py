"""Beside other plugins of pytest: what they wrap around a test, and tests that they run again."""

import json
from pathlib import Path

import pytest

from pytest_dnnbench.results.records.saved import read_saved
from tests.fake_launches import CONFTEST

CASES = """
def test_train(framework, gpus, process_group, dnnbench):
    dnnbench.measure(framework, "resnet18", process_group(gpus), phase="train")
"""

WRAPS = """
import pytest

WRAPPED = []

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    \"\"\"As pytest-timeout starts and stops its clock.\"\"\"
    WRAPPED.append(item.name)
    try:
        return (yield)
    finally:
        WRAPPED.append("over")

def pytest_unconfigure():
    with open("wrapped.txt", "w") as file:
        file.write("\\n".join(WRAPPED))
"""

TIMES_OUT = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    pytest.fail("Timeout (>1.0s) from pytest-timeout.")
    yield
"""

FAILS_INSIDE = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    raise OSError("the other plugin's")
"""

RUNS_AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    \"\"\"As pytest-rerunfailures: one run without a report, then pytest's own.\"\"\"
    runtestprotocol(item, nextitem=nextitem, log=False)
"""


def measured(
    pytester: pytest.Pytester, plugin: str, *more: str, cases: str = CASES
) -> pytest.RunResult:
    """A session with two cases of made-up launches, and a plugin."""
    pytester.syspathinsert(Path(__file__).resolve().parents[2])
    pytester.makeconftest(CONFTEST + plugin)
    pytester.makepyfile(test_cases=cases)
    return pytester.runpytest_inprocess(
        "--dnn-device=cpu",
        "--gpus=1",
        "--dnn-frameworks=single,ddp",
        "--dnn-launches=2",
        "--benchmark-json=out.json",
        *more,
    )


UNDOES = """
import pytest

@pytest.fixture(autouse=True)
def undone():
    yield
    raise OSError("cannot undo")
"""


def test_a_fixture_that_fails_when_it_is_undone_gives_errors_and_no_skips(
    pytester: pytest.Pytester,
) -> None:
    """The summary counted "measured; reported in the last round" as skipped tests."""
    result = measured(pytester, UNDOES, "-rA")
    result.assert_outcomes(errors=2)
    result.stdout.no_fnmatch_line("*SKIPPED*")
    assert (
        sum("OSError: cannot undo" in line and line.startswith("E  ") for line in result.outlines)
        == 2
    )


REPLACES = """
from pytest_dnnbench import FrameworkSpec

def pytest_dnnbench_frameworks():
    return [FrameworkSpec("ddp", "mine:Worker", "instead of ours")]
"""


def test_a_framework_that_replaces_ours_is_not_compared_with_it(pytester: pytest.Pytester) -> None:
    """A record said `ddp`, whatever ran under that name."""
    measured(pytester, "").assert_outcomes(passed=2)
    pytester.path.joinpath("out.json").rename(pytester.path / "before.json")
    result = measured(pytester, REPLACES, "--dnn-baseline=before.json")
    result.assert_outcomes(passed=2)
    records = read_saved(pytester.path / "out.json").cases.values()
    workers = [record.environment.must_match.get("worker") for record in records]
    assert workers == [None, "mine:Worker"]
    result.stdout.fnmatch_lines("*NOT COMPARABLE: *ddp-1gpu*; worker: (none) -> mine:Worker")


def test_what_others_wrap_around_a_test_is_around_every_round(pytester: pytest.Pytester) -> None:
    """pytest-timeout had no clock in any but the last round."""
    measured(pytester, WRAPS).assert_outcomes(passed=2)
    cases = ["test_train[single-1gpu]", "over", "test_train[ddp-1gpu]", "over"]
    assert (pytester.path / "wrapped.txt").read_text().splitlines() == 2 * cases


def test_a_limit_of_another_plugin_fails_the_case_once_in_the_round_that_it_ends(
    pytester: pytest.Pytester,
) -> None:
    result = measured(pytester, TIMES_OUT)
    result.assert_outcomes(failed=2)
    errors = [line for line in result.outlines if line.startswith("E ")]
    assert errors == ["E       Failed: Timeout (>1.0s) from pytest-timeout."] * 2


def test_a_test_that_is_run_again_is_saved_once_and_read(pytester: pytest.Pytester) -> None:
    """The file held the case as often as it ran, and could be no baseline: a case twice."""
    measured(pytester, RUNS_AGAIN).assert_outcomes(passed=2)
    saved = json.loads((pytester.path / "out.json").read_text())
    names = [f"test_cases.py::test_train[{framework}-1gpu]" for framework in ("single", "ddp")]
    assert [benchmark["fullname"] for benchmark in saved["benchmarks"]] == names
    assert set(read_saved(pytester.path / "out.json").cases) == set(names)


def test_what_another_plugin_raises_around_a_test_shows_none_of_our_frames(
    pytester: pytest.Pytester,
) -> None:
    result = measured(pytester, FAILS_INSIDE, "--dnn-progress=on")
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert "OSError: the other plugin's" in text
    assert "pytest_dnnbench/session" not in text


RERUNS = """
import pytest
from _pytest.runner import runtestprotocol

ONLY = {only}

class AsRerunfailures:
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            report.again = call.excinfo is not None and issubclass(call.excinfo.type, ONLY)
        return report

    def pytest_runtest_protocol(self, item, nextitem):
        for left in (2, 1, 0):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            item._initrequest()
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            again = left and any(report.failed and report.again for report in reports)
            for report in reports:
                if again and report.failed:
                    report.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=report)
            if not again:
                break
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

def pytest_sessionstart(session):
    session.config.pluginmanager.register(AsRerunfailures(), "rerunfailures")
"""

FAILS_AT_FIRST = """
from pathlib import Path

def test_train(framework, gpus, process_group, dnnbench):
    runs = Path(framework)
    count = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (count + 1))
    if count < {failures}:
        raise OSError("at first")
    dnnbench.measure(framework, "resnet18", process_group(gpus), phase="train")
"""


@pytest.mark.parametrize(("failures", "runs"), [(1, 3), (2, 4)])
def test_a_case_that_failed_in_an_early_round_is_run_again(
    pytester: pytest.Pytester, failures: int, runs: int
) -> None:
    """Of pytest-rerunfailures, whose reruns began in the last round."""
    plugin = RERUNS.format(only="Exception")
    result = measured(pytester, plugin, "-rA", cases=FAILS_AT_FIRST.format(failures=failures))
    result.assert_outcomes(passed=2)
    outcome = result.parseoutcomes()
    assert outcome == {"passed": 2, "rerun": 2 * failures}
    records = read_saved(pytester.path / "out.json").cases.values()
    assert [len(record.launches) for record in records] == [2, 2]
    assert len((pytester.path / "ddp").read_text()) == runs


def test_a_case_that_fails_in_every_run_fails_once(pytester: pytest.Pytester) -> None:
    plugin = RERUNS.format(only="Exception")
    result = measured(pytester, plugin, cases=FAILS_AT_FIRST.format(failures=9))
    assert result.parseoutcomes() == {"failed": 2, "rerun": 4}
    assert len((pytester.path / "ddp").read_text()) == 3


IN_A_FIXTURE = """
import pytest

@pytest.fixture(autouse=True)
def fails_at_first(request, framework):
    request.config.runs = getattr(request.config, "runs", {})
    count = request.config.runs[framework] = request.config.runs.get(framework, 0) + 1
    if count == 1:
        raise OSError("at first")

def test_train(framework, gpus, process_group, dnnbench):
    dnnbench.measure(framework, "resnet18", process_group(gpus), phase="train")
"""


@pytest.mark.parametrize(
    ("cases", "failed"), [(FAILS_AT_FIRST.format(failures=1), "failed"), (IN_A_FIXTURE, "errors")]
)
@pytest.mark.parametrize("only", ["OSError", "ValueError", "pytest.skip.Exception"])
def test_what_an_early_round_raised_decides_whether_its_case_is_run_again(
    pytester: pytest.Pytester, only: str, cases: str, failed: str
) -> None:
    """As --only-rerun says: a skip stood for whatever the case had raised."""
    result = measured(pytester, RERUNS.format(only=only), cases=cases)
    outcome = result.parseoutcomes()
    outcome.pop("rerun", None)
    assert outcome == {"passed" if only == "OSError" else failed: 2}
