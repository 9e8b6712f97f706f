"""Exports as the services read them: direction, unit, interval, and the rule of disturbed
launches."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.case import Case
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.results.records.schema import Conditions, Record
from tests.report import records

CASE = "bench_cases/test_steps.py::test_train[ddp-tiny-2gpu]"
LAUNCHES = {
    "throughput": [100.0, 102.0, 101.0],
    "step_time_s": [0.32, 0.3, 0.31],
    "allocated_peak_bytes": [2e9, 2e9, 2e9],
}


def measured(disturbed: Sequence[int] = (), unit: str = "img/s") -> Record:
    """A case whose launches of these numbers were disturbed."""
    record = records.record(Case("ddp", "tiny", 2, "train"), LAUNCHES, unit=unit)
    for number in disturbed:
        launch = record.launches[number]
        record.launches[number] = type(launch)(
            step_time_s=launch.step_time_s,
            loss=launch.loss,
            rank_wall_s=launch.rank_wall_s,
            page_faults=launch.page_faults,
            conditions=Conditions(disturbed="others used 1.0 cores"),
        )
    return record


def saved(folder: Path, record: Record, name: str = CASE, day: int = 10) -> str:
    """The path of a file with this case."""
    path = folder / f"session-{day}.json"
    path.write_text(json.dumps(records.saved(records.as_saved(record, name), day=day)))
    return str(path)


def exported(folder: Path, to: str, *files: str, more: Sequence[str] = ()) -> dict[str, Any]:
    """The files that the command wrote, by their names."""
    assert main(["export", *files, "--to", to, "-o", str(folder / "out"), *more]) == 0
    written = {path.name: path.read_text() for path in (folder / "out").iterdir()}
    return {
        name: json.loads(text) if name.endswith(".json") else text for name, text in written.items()
    }


def test_github_action_benchmark_gets_a_file_for_each_direction(tmp_path: Path) -> None:
    files = exported(tmp_path, "github-action-benchmark", saved(tmp_path, measured()))
    (bigger,) = files["bigger-is-better.json"]
    assert bigger["name"] == f"{CASE} throughput"
    assert (bigger["unit"], bigger["value"]) == ("img/s", 101.0)
    sign, _, half = bigger["range"].partition(" ")  # as the action parses it: a sign, a number
    assert sign == "±"
    assert 0 < float(half) < 10
    smaller = {entry["name"].split()[-1]: entry for entry in files["smaller-is-better.json"]}
    assert set(smaller) == {"step_time_s", "allocated_peak_bytes"}
    assert smaller["step_time_s"]["value"] == 0.31


def test_bencher_gets_values_with_bounds_in_measures_that_name_their_unit(tmp_path: Path) -> None:
    files = exported(tmp_path, "bencher", saved(tmp_path, measured(unit="tok/s")))
    measures = files["bencher.json"][CASE]
    assert set(measures) == {"throughput-tok-s", "step-time-s", "allocated-peak-bytes"}
    figure = measures["throughput-tok-s"]
    assert figure["lower_value"] < figure["value"] == 101.0 < figure["upper_value"]


def test_a_disturbed_launch_is_left_out_of_times_and_not_of_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, measured(disturbed=[1]))
    files = exported(tmp_path, "github-action-benchmark", path)
    (bigger,) = files["bigger-is-better.json"]
    assert bigger["value"] == 100.5  # of 100 and 101; 102 was disturbed
    assert "1 of 3 launches disturbed" in bigger["extra"]
    memory = files["smaller-is-better.json"][-1]
    assert memory["extra"] == "3 launches"


def test_a_case_without_a_figure_is_named_and_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = exported(tmp_path, "bencher", saved(tmp_path, measured(disturbed=[0, 1])))
    assert set(files["bencher.json"][CASE]) == {"allocated-peak-bytes"}
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{CASE}: throughput, step_time_s: left out, 2 of 3 launches disturbed" in line


def test_openmetrics_has_units_in_its_names_and_the_time_of_each_session(tmp_path: Path) -> None:
    days = [saved(tmp_path, measured(), day=day) for day in (11, 10)]
    text = exported(tmp_path, "openmetrics", *days)["openmetrics.txt"]
    assert text.endswith("# EOF\n")
    assert "# TYPE dnnbench_step_time_seconds gauge\n# UNIT dnnbench_step_time_seconds sec" in text
    assert "# UNIT dnnbench_throughput_img_per_s img_per_s\n" in text
    samples = [
        line for line in text.splitlines() if line.startswith("dnnbench_throughput_img_per_s{")
    ]
    assert [line.split()[-2:] for line in samples] == [
        ["101.0", "1773135000.000"],
        ["101.0", "1773221400.000"],
    ]
    assert f'case="{CASE}"' in samples[0]


def test_openmetrics_escapes_what_a_name_may_hold(tmp_path: Path) -> None:
    path = saved(tmp_path, measured(), name='a"} 1\\n')
    text = exported(tmp_path, "openmetrics", path)["openmetrics.txt"]
    assert 'case="a\\"} 1\\\\n"' in text


def test_two_sessions_of_a_case_are_refused_where_the_format_holds_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    days = [saved(tmp_path, measured(), day=day) for day in (10, 11)]
    for form in ("bencher", "github-action-benchmark"):
        assert main(["export", *days, "--to", form, "-o", str(tmp_path / "out")]) == 2
        assert "export each session by itself" in capsys.readouterr().err


def test_metrics_are_chosen_and_an_unknown_one_is_refused_with_those_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, measured())
    files = exported(tmp_path, "bencher", path, more=["--metrics", "throughput"])
    assert set(files["bencher.json"][CASE]) == {"throughput-img-s"}
    assert main(["export", path, "--to", "bencher", "-o", "x", "--metrics", "speed"]) == 2
    assert "measured were allocated_peak_bytes, step_time_s, throughput" in capsys.readouterr().err


def test_a_timed_function_is_exported_and_has_a_history_like_any_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = FunctionCase("collectives:AllReduce", "torch", 2, {"size": 1024})
    record = msgspec.structs.replace(measured(), case=None, function=function)
    files = [saved(tmp_path, record, "cases.py::test_all_reduce", day=day) for day in (10, 11)]
    text = exported(tmp_path, "openmetrics", *files)["openmetrics.txt"]
    labels = '{case="cases.py::test_all_reduce",framework="torch",gpus="2",device="cpu"}'
    assert f"dnnbench_step_time_seconds{labels} 0.31 " in text
    assert main(["history", *files]) == 0
    assert "cases.py::test_all_reduce: 2 sessions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "family"),
    [
        ("step_time", "dnnbench_step_time_seconds"),
        ("step_time_lower", "dnnbench_step_time_lower_seconds"),
        ("step_time_upper_s", "dnnbench_step_time_upper_seconds"),
    ],
)
def test_two_metrics_of_one_openmetrics_family_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str, family: str
) -> None:
    """A metric of another package; the file had a family twice, which no reader takes."""
    record = measured()
    record.metrics[other] = record.metrics["step_time_s"]
    path, out = saved(tmp_path, record), str(tmp_path / "out")
    assert main(["export", path, "--to", "openmetrics", "-o", out]) == 2
    message = capsys.readouterr().err
    assert f"would both be the family '{family}': choose one of them with --metrics" in message
    words = ["export", path, "--to", "openmetrics", "-o", out, "--metrics", "step_time_s"]
    assert main(words) == 0
