"""The report as files: what it tells, that nothing in a record can break or enter it, and that it
stays small."""

import csv
import html
import json
import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.metrics import LARGEST, SMALLEST
from pytest_dnnbench.report.command import main as report
from pytest_dnnbench.report.page import page_html
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import read_run, run_in_memory, run_of
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.write import write_report
from tests.report.records import benchmark, measured, plan_entry, saved, session

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}$\\frac$|`_*\x00\x1b[31m\ud800\u202e" + "x" * 5000


def made(folder: Path, *contents: Any) -> Path:
    """The report of these sessions."""
    for number, content in enumerate(contents):
        folder.joinpath(f"{number}.json").write_text(json.dumps(content))
    report(
        [
            *(str(folder / f"{number}.json") for number in range(len(contents))),
            "-o",
            str(folder / "report"),
        ]
    )
    return folder / "report"


def page(*contents: Any) -> str:
    """The page of these sessions, without plots."""
    read = [json.loads(json.dumps(content)) for content in contents]
    return rendered(Study(run_of(data, f"{number}.json") for number, data in enumerate(read)))


def rendered(study: Study) -> str:
    """The page of a study, without plots."""
    return page_html(study, sections(study), [], "Report")


def data_of(benchmark: dict[str, Any]) -> dict[str, Any]:
    """The record's data in a saved benchmark, to be damaged."""
    data: dict[str, Any] = benchmark["extra_info"]["dnnbench"]
    return data


def test_a_report_has_its_page_plots_and_tables(tmp_path: Path) -> None:
    folder = made(tmp_path, session(day=1), session(day=2, slower="ddp"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kinds = ("leads", "throughput", "speedup", "memory", "steps", "history")
    panels = {f"plots/{kind}-{number}.svg" for kind in kinds[1:] for number in (1, 2)}
    panels.add("plots/leads-1.svg")
    more = {f"plots/history-{number}.svg" for number in range(3, 7)}
    assert names == {
        "index.html",
        "table.md",
        "table.csv",
        *(f"plots/{kind}.png" for kind in kinds),
        *panels,
        *more,
    }
    text = folder.joinpath("index.html").read_text()
    for heading in (
        "Who wins where",
        "Throughput",
        "Speed-up",
        "Memory",
        "Step times",
        "History",
        "All cases",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert set(re.findall(r'<a href="(plots/[^"]+)">', text)) == {
        name for name in names if "/" in name
    }


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    text = made(tmp_path, session()).joinpath("index.html").read_text()
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r"""(?:src|srcset|data)=["']?(?:https?:)?//|url\((?!#)|@import""", text)
    addresses = set(re.findall(r"https?://[^\"' <]+", text))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}


def test_an_id_stands_in_the_page_only_once(tmp_path: Path) -> None:
    """Groups of matplotlib's SVG have the same ids in every panel; paths and clips are salted."""
    text = made(tmp_path, session(day=1), session(day=2)).joinpath("index.html").read_text()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) > 50
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'(?:href="#|url\(#)([^")]*)', text))
    assert named <= set(ids)


def test_each_case_tells_verdict_evidence_environment_and_how_to_measure_it_again() -> None:
    text = page(session(slower="ddp"))
    assert "gradients: largest deviation 1.2e-15, allowed 1e-09" in text
    assert "throughput regressed: -10.0% (-10.5% to -9.5%), limit -3.0%" in text
    assert "ranks agree bit for bit" in text
    assert "hostname node1" in text
    assert "--dnn-gpu-counts 4 --dnn-frameworks ddp --dnn-models resnet50" in text


def test_cases_within_their_limits_are_counted_where_there_is_no_baseline() -> None:
    data = session()
    for case in data["benchmarks"]:
        verdict = case["extra_info"]["dnnbench"]["verdict"]
        verdict |= {"status": "no-baseline", "against": None}
        verdict["metrics"]["throughput"] |= {"limit": None, "limit_absolute": 10.0}
    text = page(data)
    assert f"{len(data['benchmarks'])} within limits</li>" in text
    assert "from the required at least 10 img/s" in text
    for case in data["benchmarks"]:
        case["extra_info"]["dnnbench"]["verdict"]["metrics"] = {}
    assert "within limits" not in page(data)


def test_a_lead_is_told_with_its_interval() -> None:
    text = page(session(frameworks=("ddp", "horovod"), noise=0.002))
    assert re.search(r"ddp ahead of horovod by \d+\.\d% \(\d+\.\d% to \d+\.\d%\)", text)
    assert "ddp is the fastest" in text


def test_equal_cases_have_no_clear_winner() -> None:
    twins = [benchmark(name, "resnet50", 2, noise=0.05) for name in ("a", "b")]
    text = page(saved(*twins))
    assert "no clear winner" in text
    assert "is the fastest, by" not in text


def test_models_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["resnet18", "resnet50", "resnet101", "vgg16"]
    content = session(names[::-1], ["single"], [1], phases=["train"])
    shown = page(content)
    assert re.findall(r"<option>(\w+)</option>", shown)[: len(names)] == names
    table = made(tmp_path, content).joinpath("table.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["model"] for row in rows] == names


def test_what_failed_stands_before_who_wins_and_beyond_twenty_it_is_folded() -> None:
    content = session([f"model{number}" for number in range(5)], slower="ddp")
    names = [benchmark["fullname"] for benchmark in content["benchmarks"]]
    content["dnnbench"]["failed"] = names[:25]
    shown = page(content)
    assert shown.index("<h2>Failed</h2>") < shown.index("<h2>Who wins where</h2>")
    folded = shown[shown.index("<summary>5 more</summary>") :]
    folded = folded[: folded.index("</details>")]
    assert [html.escape(name) in folded for name in names[:25]] == [False] * 20 + [True] * 5


def test_many_comparisons_are_folded_and_few_are_not() -> None:
    few, many = session(), session([f"model{number}" for number in range(5)])
    assert "comparisons</summary>" not in page(few)
    assert "<summary>All 30 comparisons</summary>" in page(many)


def test_a_pipelines_plan_is_told_with_its_prediction_and_what_was_measured() -> None:
    pipeline = benchmark("pipedream", "resnet50", 2)
    plan = plan_entry("1-1", predicted_step_time_s=0.0125, measured_step_time_s=0.014)
    data_of(pipeline)["plan"] = msgspec.to_builtins(plan)
    text = page(saved(pipeline))
    assert "shape 1-1, parallelism pipeline, decided by planner" in text
    assert "predicted step time 12.5 ms" in text
    assert "measured step time 14 ms" in text


def test_throughputs_of_several_units_each_say_theirs(tmp_path: Path) -> None:
    tokens = benchmark("ddp", "gpt2", 2)
    data_of(tokens)["metrics"]["throughput"]["unit"] = "tok/s"
    content = saved(tokens, benchmark("ddp", "resnet50", 2))
    text = page(content)
    assert ">samples/s</button>" in text
    assert re.search(r"[\d,.]+ tok/s</td>", re.sub("<span.*?</span>", "", text))
    folder = made(tmp_path, content)
    headings = [
        line for line in folder.joinpath("table.md").read_text().splitlines() if "###" in line
    ]
    assert headings == [r"### gpt2, train \[tok/s\]", r"### resnet50, train \[img/s\]"]
    with folder.joinpath("table.csv").open(newline="") as file:
        units = {row["model"]: row["throughput_unit"] for row in csv.DictReader(file)}
    assert units == {"gpt2": "tok/s", "resnet50": "img/s"}


def hostile_benchmark() -> dict[str, Any]:
    """A benchmark with a hostile text wherever its record may hold any text."""
    hostile = benchmark("ddp", "resnet50", 2)
    data = data_of(hostile)
    hostile["fullname"] = HOSTILE
    data["case"] |= {
        "framework": HOSTILE,
        "model": f"../../{HOSTILE}",
        "options": {HOSTILE: HOSTILE},
    }
    data["environment"] = {
        "must_match": {HOSTILE: HOSTILE, "gpu": HOSTILE},
        "recorded": {HOSTILE: HOSTILE},
    }
    data["verdict"] |= {"reason": HOSTILE, "against": {"file": HOSTILE, "sessions": 1, "saved": ""}}
    data["correctness"] = {
        "checked": [HOSTILE],
        "largest_deviation": {HOSTILE: 1e-9},
        "tolerance": {HOSTILE: 1e-8},
        "ranks_agree": HOSTILE,
        "about": {HOSTILE: HOSTILE},
    }
    data["plan"] = msgspec.to_builtins(plan_entry("1-1")) | {"shape": HOSTILE}
    data["metrics"]["throughput"]["unit"] = HOSTILE
    data["metrics"]["of_a_plugin"] = {
        "value": 1.0,
        "unit": HOSTILE,
        "better": "higher",
        "per_launch": [1.0],
    }
    return hostile


def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path) -> None:
    nameless = benchmark("ddp", "resnet50", 4)
    data_of(nameless)["metrics"][HOSTILE] = data_of(nameless)["metrics"]["speedup"]
    unknown = benchmark("ddp", "resnet50", 8)
    data_of(unknown)["verdict"]["status"] = HOSTILE
    content = saved(hostile_benchmark(), nameless, unknown, failed=[HOSTILE])
    content |= {"datetime": HOSTILE, "commit_info": {"id": HOSTILE}}
    folder = made(tmp_path, content, session())
    text = folder.joinpath("index.html").read_text()
    assert text.count("<script") == text.count("</script") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert "{{7*7}}" in text
    assert text.count("is left out") == 2
    assert not any(letter in text for letter in "\x00\x1b\u202e")
    assert len(text) < 1_000_000
    outside = [
        path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(folder)
    ]
    assert {path.name for path in outside} == {"0.json", "1.json"}
    assert "<script" not in folder.joinpath("table.md").read_text()
    for svg in folder.glob("plots/*.svg"):
        assert "<script" not in svg.read_text()


def test_hostile_names_in_memory_do_nothing_either() -> None:
    record = measured("ddp", HOSTILE, 2)
    run = run_in_memory({HOSTILE: record}, failures=[(HOSTILE, f"{HOSTILE}\n{HOSTILE}")])
    text = rendered(Study([run]))
    assert text.count("<script") == text.count("</script") == 1
    assert not any(letter in text for letter in "\x00\x1b\u202e")


def test_a_hostile_title_does_nothing() -> None:
    study = Study([run_in_memory({"case": measured("ddp", "resnet50", 2)})])
    text = page_html(study, sections(study), [], HOSTILE)
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script") == text.count("</script") == 1
    assert not any(letter in text for letter in "\x00\x1b\u202e")


def test_a_spreadsheet_runs_nothing_of_the_csv(tmp_path: Path) -> None:
    made(tmp_path, saved(benchmark("=cmd|' /C calc'!A0", "@SUM(1)", 2)))
    with tmp_path.joinpath("report", "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["model"] == "'@SUM(1)"
    assert row["framework"].startswith("'=cmd")


def test_markdown_and_csv_hold_every_case(tmp_path: Path) -> None:
    folder = made(tmp_path, session())
    with folder.joinpath("table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert (
        rows[0] | {"model": "resnet50", "phase": "train", "framework": "single", "gpus": "1"}
        == rows[0]
    )
    assert 800 < float(rows[0]["throughput"]) < 1000
    lines = folder.joinpath("table.md").read_text().splitlines()
    assert lines[0] == "### resnet50, train"
    assert len([line for line in lines if line.startswith("| ddp")]) == 6
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in tables}) == 1


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (saved(), "Nothing was measured"),
        (saved(failed=["test_a", "test_b"]), "Every case of this run failed"),
        ({"benchmarks": [{"fullname": "x", "extra_info": {}}]}, "1 benchmarks of other plugins"),
        ({"benchmarks": [None, 3, {"extra_info": {"dnnbench": 7}}]}, "benchmark 2 is left out"),
        ({"benchmarks": [], "dnnbench": {"schema": 1, "failed": 3}}, "failed tests are not shown"),
    ],
)
def test_a_run_without_a_case_gives_a_page_that_says_so(content: Any, note: str) -> None:
    assert note in page(content)


def test_a_failure_counts_until_its_case_has_passed() -> None:
    """A report of four weeks showed the failures of the first as those of today."""
    name = benchmark("ddp", "tiny", 2)["fullname"]
    begin = '<section id="failures">'
    passed, failed = [benchmark("ddp", "tiny", 2)], {"failed": [name, "other.py::test_gone"]}
    first, second = saved(*passed, day=10, **failed), saved(*passed, day=11)
    assert begin in page(first)
    assert f"<li><code>{name}</code>" not in page(first, second)
    assert "<li><code>other.py::test_gone</code>" in page(first, second)
    third = saved(*passed, day=12, failed=[name])
    assert page(first, second, third).count(f"<li><code>{name}</code>") == 1


def damaged(*place: str | int, value: object) -> dict[str, Any]:
    """A benchmark whose record holds this value at this place."""
    benchmark_data = benchmark("ddp", "damaged", 2)
    part: Any = data_of(benchmark_data)
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return benchmark_data


@pytest.mark.parametrize(
    ("place", "value", "note"),
    [
        (("case",), None, "a record is about a case or about a function: give one of the two"),
        (("case",), [], "Expected `object | null`, got `array` - at `$.case`"),
        (("case", "gpus"), 0, "gpus is 0: it must be at least 1"),
        (("case", "phase"), "<b>", "phase '<b>' is unknown"),
        (("schema",), 0, "schema 0 is unknown: this version reads schema 1"),
        (("metrics", "throughput", "value"), True, "got `bool` - at"),
        (("metrics", "throughput", "value"), float("nan"), "metrics.throughput.value: nan is not"),
        (("metrics", "throughput", "value"), 10**400, "Number out of range"),
        (("metrics", "speedup", "per_launch", 1), 1e308, "metrics.speedup.per_launch[1]: 1e+308"),
        (("metrics", "speedup", "per_launch", 1), 1e-320, "metrics.speedup.per_launch[1]: 1e-320"),
        (("launches", 2, "step_time_s", 3), float("inf"), "launches[2].step_time_s[3]: inf is not"),
        (("launches", 0, "step_time_s"), ["3"], "Expected `float`, got `str`"),
        (("launches", 0, "conditions"), {"disturbed": "busy"}, ""),
        (("launches",), [{"conditions": {"disturbed": "busy"}}], "missing required field"),
        (
            ("verdict", "metrics", "throughput", "change"),
            float("nan"),
            "verdict.metrics.throughput",
        ),
        (("correctness", "largest_deviation"), {"x": float("inf")}, "largest_deviation.x: inf"),
        (("metrics", "not a name"), {}, "missing required field"),
    ],
)
def test_a_record_that_cannot_be_shown_is_left_out_and_the_rest_is_shown(
    place: tuple[str | int, ...], value: object, note: str
) -> None:
    content = saved(benchmark("ddp", "sound", 1), damaged(*place, value=value))
    run = run_of(json.loads(json.dumps(content)), "0.json")
    shown = [result.case.model for result in run.results]
    if not note:
        assert shown == ["sound", "damaged"]
        return
    assert shown == ["sound"]
    (line,) = run.notes
    assert line.startswith(
        "0.json: benchmarks[1].extra_info.dnnbench: the case"
        " bench_cases/test_steps.py::test_train[ddp-damaged-2gpu] is left out: "
    )
    assert note in line


def test_launches_without_their_conditions_are_left_out() -> None:
    lost = benchmark("ddp", "net", 2)
    data_of(lost)["launches"][0]["conditions"] = {"disturbed": "busy"}
    data_of(lost)["launches"].pop()
    (note,) = run_of(saved(lost), "0.json").notes
    assert "metrics.throughput.per_launch: 3 values and 2 launches" in note


@pytest.mark.parametrize("entry", ["record", "session"])
def test_a_newer_schema_is_refused_in_one_line(
    entry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = session()
    changed = content["dnnbench"] if entry == "session" else data_of(content["benchmarks"][0])
    changed |= {"schema": 2, "case": "of another type"}
    path = tmp_path / "new.json"
    path.write_text(json.dumps(content))
    assert main(["report", str(path), "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "schema 2 is newer than this version reads (1): update pytest-dnnbench" in line
    assert f"{path}: " in line


def test_missing_and_odd_values_are_shown_as_such(tmp_path: Path) -> None:
    bare, odd, single = (
        benchmark("ddp", "bare", 1),
        benchmark("ddp", "odd", 2),
        benchmark("ddp", "net", 2, launches=1),
    )
    data_of(bare).update(metrics={}, launches=[])
    data_of(odd)["metrics"]["speedup"] |= {"value": -1.0, "per_launch": [-1.0, 0.0]}
    data_of(odd)["launches"][0]["step_time_s"] = []
    text = made(tmp_path, saved(bare, odd, single)).joinpath("index.html").read_text()
    assert "3 cases" in text
    assert not re.search(
        r"\b(nan|inf|Infinity|None|undefined)\b",
        re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S),
    )


def test_a_single_count_of_devices_has_no_speedup_plot(tmp_path: Path) -> None:
    folder = made(tmp_path, session(counts=(2,), frameworks=("ddp", "horovod")))
    assert "Not drawn: speed-up takes" in folder.joinpath("index.html").read_text()
    assert not list(folder.glob("plots/speedup*"))


def test_a_file_that_is_no_saved_run_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (content, message) in enumerate(
        [
            (b'{"bench', "not JSON, or cut off"),
            (b"[]", "no `benchmarks`"),
            (b"\xff\xfe", "not JSON, or cut off"),
            (b"[" * 100000, "nested too deeply"),
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_run(path)
        assert main(["report", str(path), "-o", str(tmp_path / "out")]) == 2
        assert str(path) in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path / "absent.json")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        write_report(Study([]), tmp_path / "file")


def test_an_older_report_is_replaced_and_nothing_is_left_over(tmp_path: Path) -> None:
    made(tmp_path, session())
    folder = made(tmp_path, saved())
    assert "Nothing was measured" in folder.joinpath("index.html").read_text()
    assert not list(folder.rglob("*.new"))
    assert not list(folder.glob("plots/*"))


def test_a_thousand_cases_stay_under_five_megabytes(tmp_path: Path) -> None:
    models = [f"model_{number}" for number in range(27)]
    content = session(models, ("single", "ddp", "horovod", "pipedream", "fsdp"), (1, 2, 4, 8))
    assert len(content["benchmarks"]) > 900
    folder = made(tmp_path, content)
    size = folder.joinpath("index.html").stat().st_size
    assert 1_000_000 < size < 5_000_000
    assert "of 54 panels are drawn" in folder.joinpath("index.html").read_text()


def test_the_page_is_bounded_whatever_the_records_hold() -> None:
    benchmarks = []
    for number in range(1500):
        large = benchmark("ddp", f"{number}" + "m" * 200, 1 << number % 20)
        facts = {f"{number}-{key}": "e" * 1000 for key in range(20)}
        data_of(large)["environment"]["must_match"] = facts
        data_of(large)["correctness"]["about"] = {f"fact {key}": "c" * 1000 for key in range(20)}
        benchmarks.append(large)
    text = page(saved(*benchmarks))
    assert len(text.encode()) < 5_000_000
    assert "without details" in text


def test_a_record_with_too_many_details_loses_only_its_own() -> None:
    large = benchmark("ddp", "a_large_one", 1)
    data_of(large)["correctness"]["about"] = {f"fact {key}": "c" * 300 for key in range(20_000)}
    text = page(saved(large, benchmark("ddp", "net", 1)))
    assert len(text) < 1_000_000
    assert "1 case without details" in text
    assert text.count('class="toggle"') == 1


def test_one_picture_for_a_readme(tmp_path: Path) -> None:
    made(tmp_path, session())
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        picture = tmp_path / f"picture.{kind}"
        report(
            [str(tmp_path / "0.json"), "-o", str(tmp_path / "report"), "--picture", str(picture)]
        )
        assert picture.read_bytes().startswith(start)
        assert picture.stat().st_size < 100_000 * (300 / 130) ** 2  # as many more dots for print


def test_only_the_models_asked_for_are_reported(tmp_path: Path) -> None:
    made(tmp_path, session(("resnet50", "resnet18")))
    report([str(tmp_path / "0.json"), "-o", str(tmp_path / "one"), "--models", "resnet18"])
    assert "resnet50" not in tmp_path.joinpath("one", "index.html").read_text()
    with pytest.raises(UsageError, match="--models vgg16: no file holds"):
        report([str(tmp_path / "0.json"), "-o", str(tmp_path / "one"), "--models", "vgg16"])


@pytest.mark.parametrize("seed", range(4))
def test_no_value_breaks_a_plot(tmp_path: Path, seed: int) -> None:
    """Values near the ends of the range made matplotlib overflow; equal zeros gave axes without
    extent."""
    chance = random.Random(seed)
    odd = (0, 0.0, -1.0, LARGEST, -LARGEST, SMALLEST, 1e15, 5.0)
    runs = []
    for day in (1, 2):
        content = session(
            ("net",), ("single", "ddp"), (1, 2), phases=("train",), day=day, launches=2, steps=3
        )
        for data in map(data_of, content["benchmarks"]):
            for metric in data["metrics"].values():
                metric["value"] = chance.choice(odd)
                metric["per_launch"] = [chance.choice(odd) for _ in range(3)]
            for launch in data["launches"]:
                launch["step_time_s"] = [chance.choice(odd) for _ in range(3)]
        runs.append(run_of(content, f"{day}.json"))
    assert not [note for run in runs for note in run.notes]
    assert "3 cases" in write_report(Study(runs), tmp_path).read_text()
