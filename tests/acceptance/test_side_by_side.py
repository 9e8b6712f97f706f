"""Two environments side by side, for real: a planted difference is called with its sign and fails
its case; alike sides differ in nothing; side B's failures are its own.

The models sleep, so that on a busy machine a step still takes as long as it says.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_other_plugins import RERUNS

CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
MODEL = """
import time
from torch import nn

class Sleeps(nn.Module):
    def forward(self, images):
        time.sleep({seconds})
        return images

def model(channels=1, classes=10):
    {first}
    return nn.Sequential(Sleeps(), nn.Flatten(), nn.Linear(784, classes))
"""
STOPPING = """
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "a"))

from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.rank_launcher import MEASURE

launch, sides = Ranks.launch, []

def counted(self, target, *arguments, **more):
    if target == MEASURE:
        if len(sides) == int(os.environ.get("STOP_AFTER", 99)):
            raise KeyboardInterrupt
        sides.append("A" if self._here.side.name == "A" else "B")
    return launch(self, target, *arguments, **more)

def pytest_configure():
    Ranks.launch = counted

def pytest_unconfigure():
    Ranks.launch = launch
    print("sides launched:", "".join(sides))
"""
OPTIONS = (
    "-s --dnn-device cpu --gpus 1 --dnn-frameworks single --dnn-models sleepy:model"
    " --dnn-batch-size 4 --dnn-steps 6 --dnn-warmup 1"
    " --dnn-launches 8 --benchmark-json out.json"
)


@pytest.fixture
def bench(pytester: pytest.Pytester) -> Any:
    """A folder with a suite of one case; runs it, with the given options added."""
    pytester.makepyfile(test_cases=CASES)
    pytester.makeconftest(STOPPING)
    write_model(pytester, "a", 0.1)

    def run(*more: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*OPTIONS.split(), *more)

    return run


def write_model(pytester: pytest.Pytester, folder: str, seconds: float, first: str = "") -> None:
    path = pytester.path / folder / "sleepy.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(MODEL.format(seconds=seconds, first=first or "pass"))


def processes_in(folder: Path) -> list[str]:
    """The processes whose working directory is this folder: a session's servers and ranks."""
    processes = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink() == folder and int(link.parent.name) != os.getpid():
                processes.append(link.parent.name)
    return processes


def record_of(pytester: pytest.Pytester) -> dict[str, Any]:
    saved = json.loads((pytester.path / "out.json").read_text())
    record: dict[str, Any] = saved["benchmarks"][0]["extra_info"]["dnnbench"]
    return record


def test_a_slower_side_b_is_called_and_fails_its_case_also_after_an_interruption(
    bench: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B sleeps three times as long, and has a variable of its own. The session is stopped in the
    middle of its second round and continued."""
    write_model(pytester, "b", 0.3)
    against = (
        *("--dnn-against-path", "b", "--dnn-against-env", "DNNL_MAX_CPU_ISA=AVX2"),
        *("--dnn-against-limits", "throughput=-5%"),
    )
    monkeypatch.setenv("STOP_AFTER", "3")
    first = bench(*against)
    assert first.ret == pytest.ExitCode.INTERRUPTED
    first.stdout.fnmatch_lines(["*continue with --dnn-resume*", "sides launched: ABB"])
    journal = pytester.path / ".benchmarks" / "dnnbench-journal.jsonl"
    kept = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [(each["side"], each["round"]) for each in kept] == [("A", 1), ("B", 1), ("B", 2)]
    assert not processes_in(pytester.path)

    monkeypatch.delenv("STOP_AFTER")
    second = bench(*against, "--dnn-resume")
    second.assert_outcomes(failed=1)
    second.stdout.fnmatch_lines([
        "*side B (b) is worse than --dnn-against-limits allows: *",
        "  why: *",
        "dnnbench: side A is this environment, side B b; what differs, A -> B: *"
        "DNNL_MAX_CPU_ISA: none -> AVX2*",
        "dnnbench: B (b) is *% slower than A, 95% interval * to *%",
        "sides launched: BA" + "ABBA" * 3 + "ABBA",
    ])  # fmt: skip
    record = record_of(pytester)
    other = record["against"]
    compared = other["compared"]["throughput"]
    assert compared["status"] == "worse"
    assert compared["broken"]
    assert compared["pairs"] == 8
    assert compared["interval"][0] < compared["change"] < compared["interval"][1] < 0
    assert other["b_first"] == [False, True] * 4
    assert [len(record["launches"]), len(other["step_time_s"])] == [8, 8]
    assert min(map(min, other["step_time_s"])) > 0.3
    assert other["compared"]["step_time_s"]["status"] == "worse"
    assert other["must_match"]["variables.DNNL_MAX_CPU_ISA"] == "AVX2"
    assert "variables.DNNL_MAX_CPU_ISA" not in record["environment"]["must_match"]
    # The sleep is seen, unless the machine's own load hides it. Causes: test_side_causes.py.
    assert {"idle"} >= {cause["part"] for cause in other["why"]["causes"][:1]}
    # Of the two launches of each side that were profiled, a disturbed one is left out.
    assert {len(side["breakdown"]["launches"]) for side in (record, other)} <= {1, 2}
    assert other["checked"].keys() == record["correctness"]["largest_deviation"].keys()


def test_another_environment_with_the_same_speed_is_told_apart_by_its_versions_alone(
    bench: Any, pytester: pytest.Pytester
) -> None:
    """A virtual environment over the packages of this one, in which one package states another
    version, and which has no pytest-dnnbench of its own."""
    python = made_by_hand(pytester.path / "other", torchvision="9.9.9")
    against = ("--dnn-against", f"old={python}", "--dnn-against-limits", "throughput=-5%")
    # By the default rate, chance alone would call a difference in one of a hundred runs of this.
    result = bench(*against, "--dnn-false-alarms", "0.0001")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([
        "dnnbench: side A is this environment, side B old; what differs, A -> B:"
        " torchvision: * -> 9.9.9*",
        "dnnbench: no evidence that B (old) differs from A in throughput:"
        " a change of *% would have been found",
    ])  # fmt: skip
    record = record_of(pytester)
    other = record["against"]
    assert other["must_match"]["torchvision"] == "9.9.9"
    assert record["environment"]["must_match"]["torchvision"] != "9.9.9"
    assert other["compared"]["throughput"]["status"] == "no evidence"


def made_by_hand(folder: Path, **versions: str) -> Path:
    """A virtual environment whose packages are this one's, except that these state other versions;
    pytest-dnnbench is hidden."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    below = [entry for entry in sys.path if entry.endswith("-packages")]
    packages.joinpath("below.pth").write_text("\n".join(below) + "\n")
    for name, version in versions.items():
        facts = packages / f"{name}-{version}.dist-info" / "METADATA"
        facts.parent.mkdir()
        facts.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder / "bin" / "python"


def test_a_side_b_that_fails_costs_nothing_of_side_a(bench: Any, pytester: pytest.Pytester) -> None:
    write_model(pytester, "b", 0.1, "raise RuntimeError('not in this checkout')")
    result = bench("--dnn-against", f"new={sys.executable}", "--dnn-against-path", "b")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "*side B (new) of single-sleepy:model-1gpu (train) failed; side A's figures are kept: *",
        "*RuntimeError: not in this checkout*",
        "sides launched: AAA",
    ])  # fmt: skip
    record = record_of(pytester)
    assert len(record["launches"]) == 3
    assert "not in this checkout" in record["against"]["failure"]


FAILS_AT_FIRST = """
def test_train(framework, model, gpus, process_group, dnnbench, request):
    runs = request.config.runs = getattr(request.config, "runs", 0) + 1
    if runs == {failing}:
        raise OSError("once")
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""


@pytest.mark.parametrize("failing", [1, 3])
def test_a_case_that_is_run_again_is_compared(
    bench: Any, pytester: pytest.Pytester, failing: int
) -> None:
    """Its pairs were one too few, and nobody looked at them: it passed, however slow side B was."""
    write_model(pytester, "a", 0.01)
    write_model(pytester, "b", 0.01)
    pytester.makepyfile(test_cases=FAILS_AT_FIRST.format(failing=failing))
    pytester.makeconftest(STOPPING + RERUNS.format(only="Exception"))
    result = bench("--dnn-against-path", "b")
    result.assert_outcomes(passed=1)
    assert result.parseoutcomes()["rerun"] == 1
    result.stdout.fnmatch_lines(["sides launched: ABBAABBAABBAABBA"])
    other = record_of(pytester)["against"]
    assert other["looks"] == [8]
    assert other["compared"]["throughput"]["pairs"] == 8
