"""A session on GitHub Actions, as the job's page and its annotations show it. Launches are made
up (tests/fake_launches.py)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.results.records.profile_entry import WhyEntry
from pytest_dnnbench.results.records.side_by_side import (
    OtherSide,
    SideEntry,
    SideMetric,
    SideStatus,
)
from pytest_dnnbench.results.records.verdict import Verdict
from pytest_dnnbench.session import github
from tests.acceptance.test_main_job import CASES
from tests.acceptance.test_verdicts import run
from tests.fake_launches import CONFTEST
from tests.report.records import measured

__all__ = ["run"]

OF_COMMAND = re.compile(r"::(error|warning) file=([^,:]*),line=(\d+),title=([^,:]*)::(.*)")


@pytest.fixture
def job(run: Any, pytester: pytest.Pytester) -> Any:
    """Runs cases as a step of a job: its annotations, and what the page shows."""

    def start(*arguments: str, **environment: Any) -> tuple[list[re.Match[str]], str]:
        page = pytester.path / "page.md"
        page.touch()
        result = run(
            *arguments,
            GITHUB_ACTIONS="true",
            GITHUB_STEP_SUMMARY=str(page),
            GITHUB_WORKSPACE=str(pytester.path.parent),
            **environment,
        )
        lines = [line for line in result.stdout.lines if line.startswith("::")]
        commands = [OF_COMMAND.fullmatch(line) for line in lines]
        assert None not in commands, lines
        return [command for command in commands if command], page.read_text()

    return start


def test_a_regression_and_a_disturbed_case_are_annotated_where_they_stand(
    job: Any, pytester: pytest.Pytester
) -> None:
    run_quietly, page = job("--benchmark-save=base")
    assert run_quietly == []
    assert "no baseline" in page
    assert "| single" in page
    commands, page = job(
        "--dnn-baseline=latest",
        FAKE_LEVELS={"single": 70},
        FAKE_DISTURBED={"ddp": {"0": 50}},
    )
    kinds = [command[1] for command in commands]
    assert kinds == ["error", "warning", "warning"]
    lines = (pytester.path / "test_cases.py").read_text().splitlines()
    for command in commands:
        assert command[2] == f"{pytester.path.name}/test_cases.py"
        assert lines[int(command[3]) - 1].startswith("def test_train(")
    error = commands[0]
    assert error[4] == "single-resnet18-1gpu (train)%3A regressed"
    assert "%0A  throughput: baseline" in error[5]
    assert "-30." in error[5]
    assert "1 of 3 launches disturbed" in commands[1][5]
    comparison = page.rpartition("### Benchmarks: regressed")[2]
    assert comparison
    assert "🔴 regressed" in comparison
    assert "<details><summary>all figures</summary>" in comparison


def test_a_case_that_the_other_side_fails_says_why() -> None:
    """The annotation had the verdict of the baseline alone: "no-baseline"."""
    record = measured("single", "resnet18", 1)
    record.against = OtherSide(side=SideEntry(name="old", python="python"), failure="no torch")
    assert github._failure(record).endswith("side A's figures are kept: no torch")
    record.against = None
    assert "side A" not in github._failure(record)


def other(status: SideStatus, change: float, *, broken: bool = False) -> OtherSide:
    compared = SideMetric(
        status=status,
        a=1000.0,
        b=1000.0 * (1 + change),
        change=change,
        interval=(change - 0.01, change + 0.01),
        detectable=0.02,
        pairs=8,
        limit=-0.02 if broken else None,
        broken=broken,
    )
    why = WhyEntry(rank=0, baseline_s=0.01, now_s=0.02, doubt="no two launches")
    side = SideEntry(name="old", python="python", differences=["torch: 2.13.0 -> 2.9.1"])
    return OtherSide(side=side, compared={"throughput": compared}, why=why)


@pytest.mark.parametrize(
    ("against", "kind", "title"),
    [
        (other("worse", -0.1), "notice", "side B is slower"),
        (other("better", 0.1), "notice", "side A is slower"),
        (other("worse", -0.1, broken=True), "error", "side B is worse than allowed"),
        (OtherSide(side=SideEntry(name="old", python="p"), failure="no"), "error", "side B failed"),
        (None, "error", "no-baseline"),
    ],
)
def test_an_annotation_says_which_side_it_is_about(
    against: OtherSide | None, kind: str, title: str
) -> None:
    record = measured("single", "resnet18", 1)
    record.verdict = Verdict()
    record.against = against
    assert github._outcome(kind, record) == title


def test_the_page_of_the_job_has_the_whole_comparison_of_two_environments_first() -> None:
    record = measured("single", "resnet18", 1)
    record.against = other("worse", -0.1)
    first, rest = github._markdown({"case": record}, None)
    assert first.startswith("### Two environments side by side\n")
    assert "B (old) is 10% slower than A, 95% interval" in first
    assert "torch: 2.13.0" in first
    assert re.search(r"\| case \| throughput \| 1,000 img/s \| 900 img/s \| \S*10.00% \|", first)
    assert "\n- case: why: no two launches" in first
    assert rest.startswith("<details><summary>all figures</summary>")
    assert "side by side" not in rest


def test_no_text_of_a_case_becomes_a_command_of_the_runner() -> None:
    text = "x\n::add-mask::secret\r::set-env name=PATH::/\u2028::stop-commands::y %0A::error::z"
    command = github._command("error", {"file": "a,b:c", "title": text}, text)
    assert "\n" not in command
    assert "\r" not in command
    assert command.startswith("::error file=a%2Cb%3Ac,title=x")
    head, _, message = command.removeprefix("::error ").partition("::")
    assert ":" not in head  # a colon would end the properties
    assert "%250A::error" in message  # the runner shows %0A as it was written


def test_more_annotations_than_github_shows_end_in_their_number() -> None:
    kept = github._limited([("error", f"::error::{number}") for number in range(25)])
    assert len(kept) == github.MOST_ANNOTATIONS
    assert kept[-1].endswith("::16 more cases: see the summary")
    assert github._limited([("warning", "::warning::only")]) == ["::warning::only"]


def test_a_summary_never_grows_past_what_github_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("of an earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    monkeypatch.setattr(github, "LARGEST_SUMMARY", 1000)
    assert github._append(["| a row |\n" * 20, "x" * 2000]) is None
    assert page.read_text().count("| a row |") == 20  # the part that does not fit is left out
    assert github._append(["| b row |\n" * 500]) is None
    text = page.read_text()
    assert len(text) <= 1000
    assert text.count("| b row |") > 50
    assert text.endswith("The rest does not fit into a summary.\n")
    for _ in range(50):
        assert github._append(["| c row |\n" * 20]) is None
    assert page.stat().st_size <= 1000


def test_a_summary_that_cannot_be_written_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/null/page.md")
    assert github._append(["text"]) == "the summary was not written: Not a directory"


def test_elsewhere_nothing_is_annotated_unless_asked_for(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASES)
    run("--benchmark-save=base")
    slow = {"FAKE_LEVELS": json.dumps({"single": 70})}
    plain = run("--dnn-baseline=latest", **slow)
    assert not any(line.startswith("::") for line in plain.stdout.lines)
    asked = run("--dnn-baseline=latest", "--dnn-github=on", **slow)
    assert any(line.startswith("::error ") for line in asked.stdout.lines)
