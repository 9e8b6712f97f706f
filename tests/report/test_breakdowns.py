"""Breakdowns in the table and on the page, and in files that somebody has damaged."""

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.messages import OperatorTime, RankReport, StepProfile
from pytest_dnnbench.report.table import study_of, table_lines
from pytest_dnnbench.report.write import write_report
from pytest_dnnbench.results.records.breakdown import breakdown_of
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry
from pytest_dnnbench.results.records.saved import check_record, read_saved
from pytest_dnnbench.results.records.schema import Conditions, Record
from pytest_dnnbench.results.records.side_by_side import OtherSide, SideEntry
from tests.report.records import as_saved, measured, saved

NAME = "test_cases.py::test_train[ddp-resnet50-2gpu]"


def report(rank: int, profile: StepProfile | None) -> RankReport:
    """A rank whose timed steps took 10 ms each."""
    return RankReport(
        rank=rank,
        window_start_s=0.0,
        window_end_s=0.02,
        step_index=(0, 1),
        step_end_s=(0.01, 0.02),
        step_samples=(8, 8),
        samples_per_update=16,
        profile=profile,
    )


def launch(*compute_ms: float, disturbed: str | None = None, step_ms: float = 12.0) -> Launch:
    """Ranks that compute for so long, and wait for the rest of the step."""
    reports = []
    for rank, ms in enumerate(compute_ms):
        parts_s = {"compute": ms / 1e3, "communication": (12.0 - ms) / 1e3}
        rows = tuple(OperatorTime(part, f"op::{part}", s, 2.0) for part, s in parts_s.items())  # type: ignore[arg-type] # keys of a plain dict
        reports.append(report(rank, StepProfile(5, step_ms / 1e3, parts_s, rows)))  # type: ignore[arg-type] # as above
    return Launch(tuple(reports), Conditions(disturbed=disturbed))


def entry_of(*launches: Launch) -> BreakdownEntry:
    """Their breakdown, which must be there."""
    entry = breakdown_of(launches)
    assert entry is not None
    return entry


def with_breakdown(*launches: Launch) -> Record:
    """A record of two ranks."""
    record = measured("ddp", "resnet50", 2)
    record.breakdown = entry_of(*launches)
    return record


def test_the_job_is_the_mean_of_its_ranks_and_the_median_of_its_launches() -> None:
    entry = entry_of(launch(6, 8), launch(8, 10), launch(2, 4))
    assert entry.seconds["compute"] == pytest.approx(0.007)
    assert entry.shares["compute"] == pytest.approx(7 / 12, rel=1e-3)
    assert entry.slowdown == pytest.approx(1.2)
    assert entry.adds_up
    assert entry.operators[0].self_s == [[0.006, 0.008], [0.008, 0.01], [0.002, 0.004]]


def test_disturbed_launches_count_only_where_there_is_no_other() -> None:
    assert len(entry_of(launch(6, 6), launch(9, 9, disturbed="load")).launches) == 1
    assert len(entry_of(launch(9, 9, disturbed="load")).launches) == 1
    assert entry_of(launch(6, 6), launch(9, 9, disturbed="load")).left_out == 1


def test_an_explanation_takes_disturbed_launches_before_it_has_too_few() -> None:
    fresh = [launch(6, 6), launch(9, 9, disturbed="load")]
    entry = breakdown_of(fresh, fewest=2)
    assert entry is not None
    assert (len(entry.launches), entry.left_out) == (2, 0)
    entry = breakdown_of([*fresh, launch(7, 7)], fewest=2)
    assert entry is not None
    assert (len(entry.launches), entry.left_out) == (2, 1)


def test_without_a_profile_of_every_rank_there_is_no_breakdown() -> None:
    whole = launch(6, 6)
    half = Launch((whole.reports[0], report(1, None)))
    assert breakdown_of([half]) is None
    assert len(entry_of(half, whole).launches) == 1


def test_parts_that_do_not_add_up_are_said(tmp_path: Path) -> None:
    record = with_breakdown(launch(6, 6, step_ms=20.0))
    assert record.breakdown
    assert not record.breakdown.adds_up
    text = "\n".join(line.text for line in table_lines(study_of({NAME: record}), 100))
    assert "parts are 60% of the step" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_has_a_row_for_each_profiled_case(width: int) -> None:
    records = {NAME: with_breakdown(launch(6, 8), launch(6, 8))}
    records["other"] = measured("single", "resnet50", 1)
    lines = [line.text for line in table_lines(study_of(records), width)]
    assert max(map(len, lines)) <= width
    if width > 40:
        row = next(line for line in lines if "ddp, resnet50, 2" in line)
        assert row.split()[-3:] == ["58%", "42%", "x1.20"]
        assert not any("single, resnet50, 1" in line for line in lines)


def test_side_b_has_a_row_below_its_case_and_its_figures_are_checked(tmp_path: Path) -> None:
    record = with_breakdown(launch(6, 8), launch(6, 8))
    other = entry_of(launch(9, 9), launch(9, 9))
    record.against = OtherSide(side=SideEntry(name="old", python="python"), breakdown=other)
    lines = [line.text for line in table_lines(study_of({NAME: record}), 100)]
    rows = [line.split() for line in lines if "ddp, resnet50, 2" in line]
    assert rows[0][-3:] == ["58%", "42%", "x1.20"]
    assert rows[1][-5:] == ["side", "B", "75%", "25%", "x1.20"]
    record.against = msgspec.structs.replace(
        record.against, breakdown=msgspec.structs.replace(other, launches=[])
    )
    with pytest.raises(DataError, match=r"against\.breakdown\.launches: each must have the same"):
        check_record(record, "file")


def test_the_page_has_a_bar_for_each_profiled_case_and_no_section_without(tmp_path: Path) -> None:
    profiled = with_breakdown(launch(6, 8))
    write_report(study_of({NAME: profiled}), tmp_path / "with")
    assert (tmp_path / "with" / "plots" / "breakdown-1.svg").exists()
    page = (tmp_path / "with" / "index.html").read_text()
    assert "Where a step's time goes" in page.replace("&#39;", "'")
    assert "exposed communication" in page
    plain = study_of({NAME: measured("ddp", "resnet50", 2)})
    write_report(plain, tmp_path / "with")
    assert not (tmp_path / "with" / "plots" / "breakdown-1.svg").exists()


def damaged(change: str) -> dict[str, Any]:
    """A saved file whose breakdown contradicts itself."""
    content = saved(as_saved(with_breakdown(launch(6, 8), launch(6, 8)), NAME))
    content = copy.deepcopy(msgspec.to_builtins(content))
    breakdown = content["benchmarks"][0]["extra_info"]["dnnbench"]["breakdown"]
    match change:
        case "no launch":
            breakdown["launches"] = []
        case "no rank":
            breakdown["launches"] = [[], []]
        case "a rank less":
            breakdown["launches"][1].pop()
        case "an operator's launch less":
            breakdown["operators"][0]["self_s"].pop()
        case "an operator's rank more":
            breakdown["operators"][0]["calls"].append(1.0)
        case "an unknown part":
            breakdown["operators"][0]["part"] = "magic"
    return dict(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no launch", r"breakdown\.launches: each must have the same ranks"),
        ("no rank", r"breakdown\.launches: each must have the same ranks"),
        ("a rank less", r"breakdown\.launches: each must have the same ranks"),
        ("an operator's launch less", r"operators\[0\]: 'op::compute' has not one figure"),
        ("an operator's rank more", r"operators\[0\]: 'op::compute' has not one figure"),
        ("an unknown part", r"magic"),
    ],
)
def test_a_damaged_breakdown_is_refused_with_its_place(
    tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "0001_x.json"
    path.write_text(json.dumps(damaged("")))
    assert read_saved(path).cases[NAME].breakdown
    path.write_text(json.dumps(damaged(change)))
    with pytest.raises(DataError, match=message):
        read_saved(path)
