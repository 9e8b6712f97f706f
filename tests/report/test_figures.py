"""No figure of a report that misleads: disturbed launches, units, colours, formats for papers."""

import csv
import io
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
from matplotlib.figure import Figure

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.report.canvas import COLOURS, look, title_text
from pytest_dnnbench.report.captions import caption, table_caption
from pytest_dnnbench.report.command import main as report
from pytest_dnnbench.report.findings import winner_sentence
from pytest_dnnbench.report.latex import escaped
from pytest_dnnbench.report.page import page_html
from pytest_dnnbench.report.panels import leads
from pytest_dnnbench.report.paste import csv_table, markdown_tables
from pytest_dnnbench.report.plots import metric_of_history
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import Result, run_of
from pytest_dnnbench.report.standings import standings
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.table import table_lines
from pytest_dnnbench.report.verdicts import verdict_text
from pytest_dnnbench.report.winners import contests
from pytest_dnnbench.results.records.schema import Conditions, Record
from pytest_dnnbench.results.records.speed_up import relate
from tests.report.records import as_saved, record, saved, session, verdict

BUSY = "other processes used 1.0 of 2 cores"


def disturbed(made: Record, *hit: int) -> Record:
    made.launches = [
        msgspec.structs.replace(
            launch, conditions=Conditions(disturbed=BUSY if number in hit else None)
        )
        for number, launch in enumerate(made.launches)
    ]
    return made


def validated(framework: str, gpus: int, rates: list[float], *hit: int) -> Record:
    case = Case(framework, "resnet18", gpus, "validate")
    times = [[32 / rate] * 10 for rate in rates]
    return disturbed(record(case, {"throughput": rates}, step_time_s=times), *hit)


def study(*records: Record, **more: Any) -> Study:
    content = saved(*(as_saved(made, f"test[{made.trained_case.id}]") for made in records), **more)
    return Study([run_of(content, "a.json")])


def busy_study() -> Study:
    """Three of single's five launches were disturbed, and one of ddp's."""
    single = validated("single", 1, [2319.0, 2464.0, 102.0, 117.0, 28.0], 2, 3, 4)
    ddp = validated("ddp", 2, [1434.0, 1440.0, 300.0, 1436.0, 1438.0], 2)
    relate([single, ddp])
    return study(single, ddp)


def rows_of(shown: Study) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(csv_table(sections(shown), shown)))
    return {row["framework"]: row for row in rows}


def test_disturbed_launches_make_no_headline_and_no_speed_up() -> None:
    shown = busy_study()
    table = "\n".join(line.text for line in table_lines(shown, 120))
    pasted = markdown_tables(sections(shown), None, None, caption(shown))
    page = page_html(shown, sections(shown), [], "t")
    for text in (table, pasted, page):
        assert "116.9" not in text
        assert "117.0" not in text
        assert "12.27" not in text
        assert "28 to 2,464" in text.replace("\\", "")
        assert "1,437" in text
    assert "1,437.0!" in table
    assert "! a figure without the disturbed launches" in table
    assert "3 of 5" in pasted
    assert "takes part in no comparison" in page


def test_marks_are_explained_where_they_are_shown_and_nowhere_else() -> None:
    single = validated("single", 1, [2319.0, 2464.0, 102.0], 1, 2)
    relate([single])
    table = "\n".join(line.text for line in table_lines(study(single), 120))
    assert "[102.0 to 2,464.0]" in table
    assert "[...] all launches" in table
    assert "!" not in table

    alone = "\n".join(
        line.text for line in table_lines(study(validated("single", 1, [2319.0])), 120)
    )
    assert "median of 1 launch of " in alone


def test_the_csv_counts_disturbed_launches_and_leaves_doubtful_figures_empty() -> None:
    rows = rows_of(busy_study())
    assert (rows["single"]["throughput"], rows["single"]["launches_disturbed"]) == ("", "3")
    assert (rows["ddp"]["throughput"], rows["ddp"]["launches_disturbed"]) == ("1437.0", "1")
    assert rows["ddp"]["speedup_ratio"] == ""


def test_a_case_of_too_few_undisturbed_launches_takes_part_in_no_contest() -> None:
    fast = validated("ddp", 2, [2000.0, 2010.0, 1990.0], 0, 1)
    shown = study(fast, validated("horovod", 2, [1000.0, 1001.0, 999.0]))
    [contest] = contests(shown)
    assert contest.first.case.framework == "horovod"
    assert not contest.clear
    assert "ddp takes no part: 2 of 3 launches disturbed" in contest.why


def test_every_head_of_the_csv_tells_its_unit() -> None:
    shown = Study([run_of(session(), "a.json")])
    row = rows_of(shown)["ddp"]
    assert 0 < float(row["throughput_half_width_fraction"]) < 0.1
    assert (row["batch_size_per_rank"], row["steps"], row["torch"]) == ("32", "10", "2.13.0")
    assert "loss_nat" in row


def test_one_sentence_answers_who_wins_by_how_much_and_how_surely() -> None:
    shown = Study([run_of(session(), "a.json")])
    assert re.fullmatch(
        r"ddp is the fastest in \d of \d comparisons, by [\d.]+% to [\d.]+% over the second, each"
        r" with 95% confidence or more(; in \d nobody is clearly ahead)?\.",
        winner_sentence([each for each in contests(shown) if each.second], shown),
    )


def test_a_framework_has_the_same_colour_and_marker_in_every_report() -> None:
    assert look("ddp") == look("ddp")
    assert len({look(name)["color"] for name in ("single", "ddp", "horovod", "pipedream")}) == 4
    assert look("ddp", 1)["color"] == look("ddp")["color"]
    assert look("ddp", 1)["marker"] != look("ddp")["marker"]
    assert look("someone_elses")["color"] in COLOURS[6:]


def test_a_long_name_keeps_the_end_of_its_title() -> None:
    lines = title_text("my_models.experimental:a_factory_of_many_letters, train, 4 GPUs").split(
        "\n"
    )
    assert lines[1] == "train, 4 GPUs"
    assert all(len(line) <= 38 for line in lines)


def test_a_memory_regression_is_shown_as_memory() -> None:
    made = record(Case("ddp", "resnet18", 2, "train"), {
        "throughput": [100.0, 101.0, 99.0], "allocated_peak_bytes": [1e9] * 3,
    }, verdict=verdict("regressed", allocated_peak_bytes=0.12))  # fmt: skip
    result = Result("test", made)
    assert metric_of_history(result) == "allocated_peak_bytes"
    assert result.metric_status("throughput") == "no-baseline"
    assert verdict_text(made.verdict) == "regressed allocated +12.0%"
    shown = study(made, failed=[f"test[{made.trained_case.id}]"])
    page = page_html(shown, sections(shown), [], "t")
    assert page.count("regressed allocated +12.0%") == 1
    assert "memory allocated, peak regressed: +12.0%" in page.partition("<h2>Failed")[2]


def test_environments_are_titled_by_what_differs() -> None:
    made = [validated("ddp", gpus, [100.0, 101.0, 99.0]) for gpus in (1, 2)]
    made[1].environment.must_match["torch"] = "2.12.0"
    shown = study(*made)
    page = page_html(shown, sections(shown), [], "t")
    assert "E1: gpu H100, torch 2.13.0" in page
    assert "E2: gpu H100, H100, torch 2.12.0" in page


def test_the_page_is_made_for_the_dark_too() -> None:
    shown = busy_study()
    page = page_html(shown, sections(shown), [], "t")
    assert "prefers-color-scheme: dark" in page
    assert all(f"--c{colour[1:].lower()}:" in page for colour in COLOURS)


@pytest.mark.parametrize(("given", "shown"), [(True, True), (False, False)])
def test_a_flag_is_repeated_as_a_flag(given: bool, shown: bool) -> None:
    case = Case("pipedream", "m", 2, "train", options={"vertical_sync": given, "stages": "2"})
    words = command(Result("a.py::t[x]", record(case, {"throughput": [1.0]})))
    assert ("--dnn-vertical-sync" in words) is shown
    assert "True" not in words
    assert "False" not in words


def saved_run(folder: Path) -> str:
    path = folder / "run.json"
    path.write_bytes(msgspec.json.encode(session()))
    return str(path)


def test_pictures_for_papers_are_what_their_names_say(tmp_path: Path) -> None:
    run, out = saved_run(tmp_path), str(tmp_path / "out")
    starts = {"x.pdf": b"%PDF", "x.svg": b"<?xml", "x.png": b"\x89PNG"}
    for name, start in starts.items():
        assert report([run, "-o", out, "--picture", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(UsageError, match=r"choose from \.pdf, \.png, \.svg"):
        report([run, "-o", out, "--picture", str(tmp_path / "x.jpg")])
    assert not (tmp_path / "x.jpg").exists()


def test_without_a_throughput_there_is_no_picture_and_all_else_is_written(tmp_path: Path) -> None:
    content = session()
    for benchmark in content["benchmarks"]:
        del benchmark["extra_info"]["dnnbench"]["metrics"]["throughput"]
    run, picture, table = (tmp_path / name for name in ("run.json", "x.svg", "x.tex"))
    run.write_bytes(msgspec.json.encode(content))
    options = ["--picture", str(picture), "--latex", str(table)]
    with pytest.raises(UsageError, match="No case has a throughput"):
        report([str(run), "-o", str(tmp_path / "out"), *options])
    assert not picture.exists()
    assert table.exists()
    assert (tmp_path / "out" / "index.html").exists()


def test_the_table_for_a_paper_is_latex(tmp_path: Path) -> None:
    path = tmp_path / "t.tex"
    words = ["report", saved_run(tmp_path), "-o", str(tmp_path / "out"), "--latex", str(path)]
    assert main(words) == 0
    text = path.read_text()
    assert text.startswith("% \\usepackage{booktabs}\n\\begin{table}")
    assert "±" not in text
    assert "whiskers" not in text
    assert text.count("\\midrule") == 2
    assert "\\textbf{" in text
    assert escaped("50% of a_b & c") == "50\\% of a\\_b \\& c"


def test_a_table_of_more_than_a_page_goes_on_over_pages(tmp_path: Path) -> None:
    run, path = tmp_path / "run.json", tmp_path / "t.tex"
    run.write_bytes(msgspec.json.encode(session([f"model_{number}" for number in range(5)])))
    assert main(["report", str(run), "-o", str(tmp_path / "out"), "--latex", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("% \\usepackage{booktabs,longtable}\n")
    assert "{table}" not in text
    first, others = text.split("\\endfirsthead")
    assert first.count("framework & GPUs") == 1
    assert others.partition("\\endhead")[0].count("framework & GPUs") == 1
    assert text.count(" \\\\\n") == 1 + 2 + 10 + 70  # caption, heads, groups, cases


def test_captions_speak_of_marks_that_are_there() -> None:
    whole = Study([run_of(session(), "run.json")])
    assert "small dots" in caption(whole, "throughput")
    for plot in ("leads", "history"):
        assert "whiskers: 95% interval" in caption(whole, plot)
        assert "small dots" not in caption(whole, plot)
    assert "whiskers" not in table_caption(whole)
    assert "±: half of the 95% interval" in table_caption(whole)


EIGHT = ("single", "ddp", "fsdp", "horovod", "pipedream", "pipedream-2bw", "gpipe", "1f1b")


def test_the_first_chart_has_the_comparisons_on_most_devices_first() -> None:
    whole = Study([run_of(session(("a", "b"), EIGHT[:3], (1, 2, 4)), "run.json")])
    titles = [standing.title for standing in standings(contests(whole), whole)]
    assert [title.rpartition(", ")[2] for title in titles] == ["4 GPUs"] * 4 + ["2 GPUs"] * 4
    small = Study([run_of(session(("a",), EIGHT[:2], (1,)), "run.json")])
    assert standings(contests(small), small)[0].title == "a, train, 1 GPU"


@pytest.mark.parametrize("frameworks", [EIGHT, EIGHT[:4], EIGHT[:2]])
def test_the_rows_of_the_first_chart_are_apart_and_inside_of_it(frameworks: Sequence[str]) -> None:
    whole = Study([run_of(session(("a", "b"), frameworks, (1, 2, 4)), "run.json")])
    drawn = standings(contests(whole), whole)
    axes = Figure().add_subplot()
    leads(drawn, axes)
    heights = [numpy.asarray(line.get_ydata(), dtype=float).tolist() for line in axes.lines]
    marks = sorted(height for height, *more in heights if not more)
    rows = [len(standing.shares) for standing in drawn]
    assert len(marks) == sum(rows) <= 32
    low, high = sorted(axes.get_ylim())
    assert low < marks[0] - 0.09
    assert marks[-1] + 0.09 < high
    starts = list(accumulate(rows))[:-1]
    within = [b - a for at, (a, b) in enumerate(pairwise(marks), 1) if at not in starts]
    between = [b - a for at, (a, b) in enumerate(pairwise(marks), 1) if at in starts]
    assert min(between) > 1.5 * max(within)


def test_of_more_cases_than_fit_one_comparison_is_drawn() -> None:
    names = [f"framework_{number}" for number in range(40)]
    whole = Study([run_of(session(("a",), names, (1, 2)), "run.json")])
    drawn = standings(contests(whole), whole)
    assert [len(standing.shares) for standing in drawn] == [40]
