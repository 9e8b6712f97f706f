"""A step of a build says how far it is, and explains its failure."""

import os
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.errors import BuildError
from pytest_dnnbench.horovod_build import steps
from pytest_dnnbench.horovod_build.steps import BuildLog
from tests.starts_that_fail import fail_first


@pytest.fixture
def log(tmp_path: Path) -> BuildLog:
    return BuildLog(tmp_path / "build.log", tmp_path / "kept.log", lambda _: None)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", "use --jobs 1"),
        ("c++: error: unrecognized command-line option '-std=c++20'", "too old for C++20"),
        ("x.cc:1: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("ERROR: No matching distribution found for horovod==0.28.1", "--sdist"),
        ("  Could NOT find NCCL (missing: NCCL_LIBRARY)", "HOROVOD_NCCL_HOME"),
        ("write failed: No space left on device", "the disk is full"),
    ],
)
def test_a_failed_step_names_itself_its_likely_cause_and_the_log(
    log: BuildLog, output: str, cause: str
) -> None:
    with pytest.raises(BuildError) as caught:
        log.run("compile", [sys.executable, "-c", f"print({output!r}); raise SystemExit(3)"])
    text = str(caught.value)
    assert "step 'compile' ended with status 3" in text
    assert cause in text.partition("likely")[2].partition("The whole output")[0]
    assert text.endswith("kept.log")
    assert "rror" not in output or output in text.partition("likely")[0], (
        "the telling line is shown"
    )
    assert output in log.path.read_text()
    assert "\n" not in text


def test_the_error_that_cmake_prints_is_shown_and_harmless_mentions_are_no_cause(
    log: BuildLog,
) -> None:
    output = (
        "-- Found NCCL: nccl.h CUDAToolkit\n"
        "CMake Error at CMakeLists.txt:21 (message):\n    It does not\n    fit.\n"
    )
    text = str(log.failure("compile", "ended with status 1", output))
    assert "(CMake Error at CMakeLists.txt:21 (message): It does not)" in text
    assert "usual causes:" in text


def test_a_failure_without_a_known_cause_lists_the_usual_ones(log: BuildLog) -> None:
    with pytest.raises(BuildError, match=r"usual causes: .*memory .*a full disk"):
        log.run("compile", [sys.executable, "-c", "raise SystemExit(1)"])


@pytest.mark.parametrize(
    ("available_kb", "jobs"),
    [(100, 1), (2_600_000, 1), (1_000_000_000, len(os.sched_getaffinity(0)))],
)
def test_compilations_are_as_many_as_memory_allows(
    tmp_path: Path, available_kb: int, jobs: int
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {available_kb} kB\n")
    assert steps.default_jobs(tmp_path / "meminfo") == jobs


def test_progress_is_reported_every_fifth_of_the_way(tmp_path: Path) -> None:
    reported: list[str] = []
    script = "for percent in range(0, 101, 5): print(f'  [{percent:3}%] Building CXX object')"
    BuildLog(tmp_path / "log", tmp_path / "log", reported.append).run(
        "compile", [sys.executable, "-c", script]
    )
    assert [line.split(" %")[0].strip() for line in reported[:-1]] == [
        "20",
        "40",
        "60",
        "80",
        "100",
    ]


def test_a_step_that_the_kernel_refuses_to_start_for_a_moment_is_started_again(
    log: BuildLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build of half an hour was lost to it."""
    failed = fail_first(monkeypatch)
    assert log.run("compile", [sys.executable, "-c", "print('built')"]) == "built\n"
    assert len(failed) == 1
