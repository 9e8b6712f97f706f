"""Two environments side by side in a report: on the page, as Markdown and as CSV."""

import csv
import html
import re
from pathlib import Path

import msgspec
import pytest

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.report.page import page_html
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import run_in_memory
from pytest_dnnbench.report.side_by_side import side_table
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.write import write_report
from pytest_dnnbench.results.records.profile_entry import Cause, WhyEntry
from pytest_dnnbench.results.records.saved import check_record
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.side_by_side import OtherSide, SideEntry, SideMetric
from tests.report.records import measured

SLOWER = SideMetric(
    status="worse",
    a=1000.0,
    b=969.0,
    change=-0.031,
    interval=(-0.038, -0.024),
    detectable=0.012,
    pairs=12,
    limit=-0.02,
    broken=True,
)
WHY = WhyEntry(
    rank=0,
    baseline_s=0.01,
    now_s=0.012,
    causes=[
        Cause(
            part="data",
            name="",
            baseline_s=0.001,
            now_s=0.003,
            baseline_calls=None,
            now_calls=None,
            share=1.0,
        )
    ],
)
OLD = SideEntry(name="torch <2.9>", python="python", differences=["torch: 2.13.0 -> 2.9.1"])


def case(framework: str, against: OtherSide | None) -> Record:
    record = measured(framework, "resnet18", 2)
    record.against = against
    return record


def study_of(*against: OtherSide | None) -> Study:
    records = {
        f"case {number}": case(framework, other)
        for number, (framework, other) in enumerate(zip(("ddp", "horovod"), against, strict=False))
    }
    return Study([run_in_memory(records)])


def test_the_page_the_markdown_and_the_csv_have_the_same_comparison(tmp_path: Path) -> None:
    compared = OtherSide(side=OLD, compared={"throughput": SLOWER}, why=WHY)
    page = write_report(study_of(compared, None), tmp_path).read_text()
    text = html.unescape(re.sub(r"<[^>]+>", " ", page[page.index('<section id="sides">') :]))
    assert "B (torch <2.9>) is 3.1% slower than A, 95% interval 2.4 to 3.8%" in text
    assert "torch: 2.13.0 -> 2.9.1" in text
    assert "why: a profiled step of rank 0 takes 2 ms more on side B (10 ms to 12 ms)" in text
    assert "<li>data wait: 2 ms more (1 ms to 3 ms), 100% of the difference</li>" in page
    assert '<a href="#sides">' in page
    assert "torch <2.9>" not in page, "texts are escaped"
    table = (tmp_path / "table.md").read_text()
    assert re.search(r"\| throughput \| 1,000 img/s \| 969 img/s \| \S*3\.10% \|", table)
    assert "- case 0: why: a profiled step of rank 0 takes 2 ms more on side B" in table
    assert "\n  - data wait: 2 ms more" in table
    rows = list(csv.DictReader((tmp_path / "side-by-side.csv").read_text().splitlines()))
    assert [(row["test"], row["metric"], row["unit"]) for row in rows] == [
        ("case 0", "throughput", "img/s")
    ]
    assert float(rows[0]["change_fraction"]) == -0.031
    assert float(rows[0]["interval_high_fraction"]) == -0.024
    assert rows[0]["limit_broken"] == "True"
    assert rows[0]["slower_side"] == "B"
    assert rows[0]["why"].endswith("; data wait: 2 ms more (1 ms to 3 ms), 100% of the difference")
    write_report(study_of(None), tmp_path)
    assert not (tmp_path / "side-by-side.csv").exists(), "of an older report"


def test_a_side_that_failed_has_a_row_that_says_why() -> None:
    table = side_table(study_of(OtherSide(side=OLD, failure="RankCrashed: killed\nmore")))
    assert table is not None
    assert table.rows[0][:7] == ("case 0", "", "", "", "", "", "failed")
    assert table.rows[0][7].startswith("RankCrashed: killed")


def test_a_study_of_one_environment_has_no_such_section() -> None:
    study = study_of(None, None)
    assert side_table(study) is None
    assert 'id="sides"' not in page_html(study, sections(study), [], "Report")


@pytest.mark.parametrize(
    "damage",
    [
        {"change": -1.0},
        {"interval": (-2.0, 0.0)},
        {"interval": (0.0, -0.1)},
        {"a": 0.0},
        {"b": float("inf")},
        {"detectable": float("nan")},
    ],
)
def test_figures_that_no_pairs_can_give_are_refused_as_a_baseline_and_left_out_of_a_report(
    damage: dict[str, object],
) -> None:
    damaged = msgspec.structs.replace(SLOWER, **damage)
    side = OtherSide(side=OLD, compared={"throughput": damaged})
    with pytest.raises(DataError, match=r"against\.compared\.throughput: no pairs can give"):
        check_record(case("ddp", side), "file")
    table = side_table(study_of(side))
    assert table is not None
    assert table.rows == ()
