"""What a session's preflight measured of its nodes: on the page, as Markdown, as CSV and as
OpenMetrics."""

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.report.export_command import main as export
from pytest_dnnbench.report.nodes import MOST_LINKS, nodes_table
from pytest_dnnbench.report.runs import run_of
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.write import write_report
from pytest_dnnbench.results.records.preflight import LinkPreflight, NodePreflight, PreflightEntry
from pytest_dnnbench.results.verdicts.preflight import judged
from tests.report import records

YARDSTICKS_S = {"n<1>": 0.005, "n2": 0.0051, "n3": 0.0061}
RATES = {("n<1>", "n2"): 10e9, ("n<1>", "n3"): 9.8e9, ("n2", "n3"): 2e9}


def entry(**changes: Any) -> PreflightEntry:
    """Three nodes of which one is slow, and of whose links one is."""
    measured = PreflightEntry(
        torch="2.13.0",
        device="cpu",
        took_s=3.0,
        nodes=[
            NodePreflight(
                name=name, yardstick_s=[each_s], skew=each_s / 0.0051 - 1, interface="eth0",
                network_mbit_s=100_000,
            )
            for name, each_s in YARDSTICKS_S.items()
        ],
        links=[
            LinkPreflight(
                nodes=nodes, backend="gloo", size_bytes=1 << 20, bytes_s=(rate, rate * 1.05),
                latency_s=40e-6,
            )
            for nodes, rate in RATES.items()
        ],
    )  # fmt: skip
    return msgspec.structs.replace(judged(measured, []), **changes)


def content(preflight: PreflightEntry | None, day: int = 10) -> Any:
    """A saved file of one case whose session had this preflight."""
    saved = records.session(counts=(1,), day=day)
    saved["dnnbench"]["preflight"] = msgspec.to_builtins(preflight)
    return saved


def study_of(*preflights: PreflightEntry | None) -> Study:
    return Study(
        run_of(content(each, day), f"{day}.json") for day, each in enumerate(preflights, 1)
    )


def test_the_page_and_its_tables_say_which_node_and_which_link_are_slow(tmp_path: Path) -> None:
    page = write_report(study_of(entry(), None), tmp_path).read_text()
    section = page[page.index('<section id="nodes">') :].partition("</section>")[0]
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", section)).split())
    assert "Measured before the first case of the session 2026-03-01T09:30:00+00:00, in 3 s" in text
    assert "node n3 is slow: its yardstick takes 6.10 ms, the others 5.05 ms" in text
    assert (
        "n3 6.10 ms +19.6% 2 GB/s to n2 eth0, 100,000 Mbit/s 1.2 times as slow as the oth" in text
    )
    assert "n2 to n3 gloo 2 GB/s 2.1 GB/s 40 us 4.9 times as slow as the others" in text
    assert "n<1>" not in section, "texts are escaped"
    assert '<a href="#nodes">' in page
    table = (tmp_path / "table.md").read_text()
    assert (
        "| n2 to n3 | gloo | 2 GB/s | 2.1 GB/s | 40 us | 4.9 times as slow as the others |" in table
    )
    rows = list(csv.DictReader((tmp_path / "nodes.csv").read_text().splitlines()))
    assert [(row["node"], row["other_node"]) for row in rows] == [
        *((name, "") for name in YARDSTICKS_S),
        *RATES,
    ]
    assert [float(row["yardstick_s"]) for row in rows[:3]] == pytest.approx([0.005, 0.0051, 0.0061])
    assert [float(row["there_bytes_s"]) for row in rows[3:]] == list(RATES.values())
    assert [bool(row["slow"]) for row in rows] == [False, False, True, False, False, True]
    write_report(study_of(None), tmp_path)
    assert not (tmp_path / "nodes.csv").exists(), "of an older report"
    assert 'id="nodes"' not in (tmp_path / "index.html").read_text()


def test_nodes_that_are_alike_are_said_to_be_and_the_newest_session_counts() -> None:
    alike = [NodePreflight(name=name, yardstick_s=[0.005], skew=0.0) for name in ("a", "b")]
    table = nodes_table(study_of(entry(), judged(entry(nodes=alike, links=[], slow=[]), [])))
    assert table is not None
    assert [row[0] for row in table.nodes] == ["a", "b"]
    assert table.sentences[-1].startswith("No node and no link was slow")


def test_of_many_links_the_slowest_are_shown_and_the_others_counted() -> None:
    names = [f"n{number}" for number in range(20)]
    links = [
        LinkPreflight(
            nodes=(left, right), backend="gloo", size_bytes=1, bytes_s=(rate, rate), latency_s=1e-5
        )
        for rate, (left, right) in enumerate(
            ((a, b) for a in names for b in names if a < b), start=10**9
        )
    ]
    table = nodes_table(study_of(entry(links=links[::-1])))
    assert table is not None
    assert len(table.links) == MOST_LINKS
    assert table.links[0][0] == "n0 to n1"
    assert table.links_left_out == len(links) - MOST_LINKS == 90


@pytest.mark.parametrize(
    "damage",
    [{"took_s": 1e300}, {"nodes": [NodePreflight(name="a", yardstick_s=[-1.0], skew=0.0)]}],
)
def test_a_preflight_that_cannot_be_is_left_out_and_the_rest_is_shown(damage: Any) -> None:
    study = study_of(entry(**damage))
    assert nodes_table(study) is None
    assert study.measured
    assert study.notes == ["1.json: dnnbench.preflight: figures that no node can have: not shown"]


def test_openmetrics_has_nodes_and_links_with_the_time_of_each_session(tmp_path: Path) -> None:
    files = []
    for day in (2, 1):
        files.append(str(tmp_path / f"{day}.json"))
        Path(files[-1]).write_text(json.dumps(content(entry(), day)))
    assert export([*files, "--to", "openmetrics", "-o", str(tmp_path)]) == 0
    lines = (tmp_path / "openmetrics.txt").read_text().splitlines()
    assert lines[-1] == "# EOF"
    yardsticks = [line for line in lines if 'node="n3"' in line]
    assert yardsticks == [
        f'dnnbench_node_yardstick_seconds{{node="n3",device="cpu"}} 0.0061 {time:.3f}'
        for time in (1772357400, 1772443800)
    ]
    labels = 'source="n3",sink="n2",backend="gloo"'
    assert f"dnnbench_link_bytes_per_second{{{labels}}} 2100000000.0 1772357400.000" in lines
    assert "# UNIT dnnbench_link_bytes_per_second bytes_per_second" in lines
