"""The report as files: what it tells, that nothing in a record can break or enter it, and that it
stays small."""

import csv
import html
import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.report.command import main as report
from pytest_dnnbench.report.page import render
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.rows import sections
from pytest_dnnbench.report.runs import read_run, run_of
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.write import write_report
from pytest_dnnbench.session.settings import OPTIONS
from tests.report.records import benchmark, session

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
    study = Study(run_of(content, f"{number}.json") for number, content in enumerate(read))
    return render(study, sections(study), [], "Report")


def record(one: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = one["extra_info"]["dnnbench"]
    return found


def test_a_report_has_its_page_plots_and_tables(tmp_path: Path) -> None:
    folder = made(tmp_path, session(day=1), session(day=2, slower="ddp"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kinds = ("throughput", "speedup", "memory", "steps", "history")
    panels = {f"plots/{kind}-{number}.svg" for kind in kinds for number in (1, 2)}
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


def test_each_case_tells_verdict_evidence_environment_and_how_to_measure_it_again() -> None:
    text = page(session(slower="ddp"))
    assert "gradients: largest deviation 1.2e-15, allowed 1e-09" in text
    assert "throughput regressed: -10.0% (-10.5% to -9.5%), limit -3.0%" in text
    assert "ranks agree bit for bit" in text
    assert "hostname node1" in text
    assert "--dnn-gpu-counts 4 --dnn-frameworks ddp --dnn-models resnet50" in text


def test_a_lead_is_told_with_its_interval() -> None:
    text = page(session(frameworks=("ddp", "horovod"), noise=0.002))
    assert re.search(r"ddp ahead of horovod by \d+\.\d% \(\d+\.\d% to \d+\.\d%\)", text)
    assert "ddp is clearly the fastest in" in text


def test_equal_cases_have_no_clear_winner() -> None:
    twins = [benchmark(name, "resnet50", 2, noise=0.05) for name in ("a", "b")]
    text = page({"benchmarks": twins})
    assert "no clear winner" in text
    assert "clearly the fastest" not in text


def test_a_pipelines_plan_is_told_with_its_promise_and_its_outcome() -> None:
    one = benchmark("pipedream", "resnet50", 2)
    times = {"predicted_step_time_s": 0.0125, "measured_step_time_s": 0.014}
    record(one)["plan"] = {
        "shape": "1-1",
        "decided_by": "planner",
        "stages": [{"nodes": ["conv1"]}],
        **times,
    }
    text = page({"benchmarks": [one]})
    assert "shape 1-1, decided by planner" in text
    assert "predicted step time 12.5 ms" in text
    assert "measured step time 14 ms" in text


def test_the_command_spells_out_every_setting_of_the_case() -> None:
    one = benchmark("horovod", "my.models:net", 2)
    record(one)["case"] |= {
        "scaling": "strong",
        "batch_size": 16,
        "options": {"compression": "fp16"},
        "precision": "bf16",
    }
    (result,) = run_of({"benchmarks": [one]}, "x").results
    told = shlex.split(command(result))
    assert told[:2] == [
        "pytest",
        "bench_cases/test_steps.py::test_train[horovod-my.models:net-2gpu]",
    ]
    settings = dict(zip(told[2::2], told[3::2], strict=True))
    assert settings["--dnn-batch-size"] == "32"
    assert settings["--dnn-horovod-compression"] == "fp16"
    assert settings["--dnn-precision"] == "bf16"
    known = {option.flag for option in OPTIONS} | {"--dnn-horovod-compression"}
    assert settings.keys() <= known


def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path) -> None:
    one = benchmark("ddp", "resnet50", 2)
    one["fullname"] = HOSTILE
    record(one)["case"] |= {
        "framework": HOSTILE,
        "model": f"../../{HOSTILE}",
        "options": {HOSTILE: HOSTILE},
    }
    record(one)["environment"] = {
        "must_match": {HOSTILE: HOSTILE},
        "recorded": {HOSTILE: [HOSTILE]},
    }
    record(one)["verdict"] = {
        "status": HOSTILE,
        "reason": HOSTILE,
        "against": HOSTILE,
        "metrics": {HOSTILE: HOSTILE},
    }
    record(one)["correctness"] = {HOSTILE: HOSTILE, "largest_deviation": {HOSTILE: HOSTILE}}
    record(one)["plan"] = {"stages": [HOSTILE]}
    record(one)["metrics"][HOSTILE] = {
        "value": 1.0,
        "unit": HOSTILE,
        "better": HOSTILE,
        "per_launch": [HOSTILE],
    }
    content = {
        "benchmarks": [one],
        "datetime": HOSTILE,
        "dnnbench": {"failed": [HOSTILE, [HOSTILE, HOSTILE]]},
    }
    folder = made(tmp_path, content, session())
    text = folder.joinpath("index.html").read_text()
    assert text.count("<script") == text.count("</script") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert "{{7*7}}" in text
    assert not any(letter in text for letter in "\x00\x1b\u202e")
    assert len(text) < 1_000_000
    outside = [
        path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(folder)
    ]
    assert {path.name for path in outside} == {"0.json", "1.json"}
    assert "<script" not in folder.joinpath("table.md").read_text()
    for svg in folder.glob("plots/*.svg"):
        assert "<script" not in svg.read_text()


def test_a_spreadsheet_runs_nothing_of_the_csv(tmp_path: Path) -> None:
    made(tmp_path, {"benchmarks": [benchmark("=cmd|' /C calc'!A0", "@SUM(1)", 2)]})
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
    ("content", "told"),
    [
        ({"benchmarks": []}, "Nothing was measured"),
        (
            {"benchmarks": [], "dnnbench": {"failed": ["test_a", ["test_b", "RankHung"]]}},
            "Every case of this run failed",
        ),
        ({"benchmarks": [{"fullname": "x", "extra_info": {}}]}, "not pytest-dnnbench&#39;s"),
        ({"benchmarks": [None, 3, {"extra_info": {"dnnbench": 7}}]}, "does not tell framework"),
    ],
)
def test_a_run_without_a_case_gives_a_page_that_says_so(content: Any, told: str) -> None:
    assert told in page(content)


def test_missing_and_odd_values_are_left_out(tmp_path: Path) -> None:
    bare, odd, single = (
        benchmark("ddp", "bare", 1),
        benchmark("ddp", "odd", 2),
        benchmark("ddp", "net", 2, launches=1),
    )
    bare["extra_info"]["dnnbench"] = {
        "case": {"framework": "ddp", "model": "bare", "gpus": 1, "phase": "train"}
    }
    metrics = record(odd)["metrics"]
    metrics["throughput"] |= {"value": float("nan"), "per_launch": [float("inf"), None, "3"]}
    metrics["step_time_s"] = []
    metrics["speedup"] |= {"value": -1.0, "per_launch": [-1.0, 0.0]}
    metrics["allocated_peak_bytes"]["value"] = True
    metrics["cached_peak_bytes"]["value"] = 10**400
    record(odd)["launches"] = [{"step_time_s": [1e-3, float("nan")]}, {}, None]
    text = made(tmp_path, {"benchmarks": [bare, odd, single]}).joinpath("index.html").read_text()
    assert "3 cases" in text
    assert not re.search(
        r"\b(nan|inf|Infinity|None|undefined)\b",
        re.sub(r"<script>.*</script>", "", text, flags=re.S),
    )


def test_a_single_count_of_devices_has_no_speedup_plot(tmp_path: Path) -> None:
    folder = made(tmp_path, session(counts=(2,), frameworks=("ddp", "horovod")))
    assert "Not drawn: speed-up takes" in folder.joinpath("index.html").read_text()
    assert not list(folder.glob("plots/speedup*"))


def test_a_file_that_is_no_saved_run_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (content, told) in enumerate(
        [
            (b'{"bench', "is not JSON"),
            (b"[]", "no `benchmarks`"),
            (b"\xff\xfe", "is not JSON"),
            (b"[" * 100000, "is not JSON"),
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_bytes(content)
        with pytest.raises(DataError, match=told):
            read_run(path)
        assert main(["report", str(path), "-o", str(tmp_path / "out")]) == 2
        assert path.name in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path / "absent.json")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        write_report(Study([]), tmp_path / "file")


def test_an_older_report_is_replaced_and_nothing_is_left_over(tmp_path: Path) -> None:
    made(tmp_path, session())
    folder = made(tmp_path, {"benchmarks": []})
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
    ones = []
    for number in range(1500):
        one = benchmark("ddp", f"{number}" + "m" * 200, 1 << number % 20)
        record(one)["environment"]["must_match"] = {
            f"{number}-{key}": "e" * 1000 for key in range(20)
        }
        record(one)["correctness"] |= {f"fact {key}": "c" * 1000 for key in range(20)}
        ones.append(one)
    text = page({"benchmarks": ones})
    assert len(text.encode()) < 5_000_000
    assert "without their details" in text


def test_one_picture_for_a_readme(tmp_path: Path) -> None:
    made(tmp_path, session())
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        picture = tmp_path / f"picture.{kind}"
        report(
            [str(tmp_path / "0.json"), "-o", str(tmp_path / "report"), "--picture", str(picture)]
        )
        assert picture.read_bytes().startswith(start)
        assert picture.stat().st_size < 100_000


def test_only_the_models_asked_for_are_reported(tmp_path: Path) -> None:
    made(tmp_path, session(("resnet50", "resnet18")))
    report([str(tmp_path / "0.json"), "-o", str(tmp_path / "one"), "--models", "resnet18"])
    assert "resnet50" not in tmp_path.joinpath("one", "index.html").read_text()
    with pytest.raises(UsageError, match="--models vgg16: no file holds"):
        report([str(tmp_path / "0.json"), "-o", str(tmp_path / "one"), "--models", "vgg16"])


@pytest.mark.parametrize("seed", range(4))
def test_no_value_breaks_a_plot(tmp_path: Path, seed: int) -> None:
    """Values near the ends of floating point made matplotlib overflow; equal zeros gave axes
    without extent."""
    chance = random.Random(seed)
    odd: tuple[object, ...] = (
        0,
        0.0,
        -1.0,
        1e308,
        -1e308,
        1e-320,
        1e15,
        5.0,
        float("inf"),
        None,
        "x",
        [],
        True,
        10**400,
    )
    runs = []
    for day in (1, 2):
        content = session(
            ("net",), ("single", "ddp"), (1, 2), phases=("train",), day=day, launches=2, steps=3
        )
        for one in content["benchmarks"]:
            for metric in record(one)["metrics"].values():
                metric["value"] = chance.choice(odd)
                metric["per_launch"] = [chance.choice(odd) for _ in range(3)]
            for launch in record(one)["launches"]:
                launch["step_time_s"] = [chance.choice(odd) for _ in range(3)]
        runs.append(run_of(content, f"{day}.json"))
    assert "3 cases" in write_report(Study(runs), tmp_path).read_text()
