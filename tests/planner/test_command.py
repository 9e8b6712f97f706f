"""The command: what it prints for people and for programs, and what it says to arguments that
cannot be."""

import json
from pathlib import Path

import pytest

from benchmarks.planner_graphs import residual
from pytest_dnnbench.__main__ import main
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.profile_file import write_profile

STAGE_KEYS = {
    *("first", "last", "replicas", "versions", "operators"),
    *("compute_s", "forward_s", "parameter_bytes", "output_bytes", "memory_bytes"),
}


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    """A model whose weights are all at its end."""
    operators = (
        Operator("features", "Conv2d", 0.5, 1.0, 1e6, 1e6),
        Operator("classifier", "Linear", 0.2, 0.3, 1e4, 5e8),
    )
    write_profile(Profile(operators, (("features", "classifier"),)), tmp_path / "heavy_end.json")
    return tmp_path / "heavy_end.json"


def plan(profile: Path, *arguments: str) -> int:
    return main(["plan", "--profile", str(profile), *arguments])


def test_people_get_a_table_with_data_parallelism_beside_it(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(profile_file, "--gpus", "4", "--bandwidth", "1e8") == 0
    assert capsys.readouterr().out.splitlines()[:9] == [
        "corrected cost model, 4 GPUs",
        "",
        "stage  replicas  operators  compute ms  weights MB  output MB  versions  memory MB"
        "  from, to",
        "    0         3          1    1500.000        1.00       1.00         2        6.0"
        "  features, features",
        "    1         1          1     500.000      500.00       0.01         1     1501.0"
        "  classifier, classifier",
        "",
        "this plan (3-1):           500.000 ms per minibatch, 4.00 times one GPU",
        "data parallelism:         1878.750 ms per minibatch, 1.06 times one GPU, 1504.0 MB each",
        "one GPU:                  2000.000 ms per minibatch, 1.00 times one GPU",
    ]


def test_programs_get_json(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(profile_file, "--gpus", "4x1", "--bandwidth", "1e8,1e7", "--json") == 0
    output = capsys.readouterr().out
    document = json.loads(output)
    assert (document["workers"], document["bottleneck_s"], document["single_s"]) == (
        [4, 1],
        0.5,
        2.0,
    )
    assert [set(stage) for stage in document["stages"]] == [STAGE_KEYS, STAGE_KEYS]
    assert [(stage["first"], stage["last"]) for stage in document["stages"]] == [(0, 0), (1, 1)]
    assert [stage["operators"] for stage in document["stages"]] == [["features"], ["classifier"]]
    assert '"parameter_bytes": 1000000,' in output, "whole byte counts are written as integers"


def test_options_reach_the_planner(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shape(*options: str) -> list[int]:
        plan(profile_file, "--gpus", "4", "--bandwidth", "1e8", "--json", *options)
        return [stage["replicas"] for stage in json.loads(capsys.readouterr().out)["stages"]]

    assert shape() == [3, 1]
    assert shape("--no-replication") == [1, 1]
    assert shape("--memory", "1e3") == []
    assert shape("--memory", "5e6") == []
    assert shape("--cost-model", "original", "--no-replication") == [], (
        "two operators do not make four stages"
    )
    assert shape("--activations-free", "--cost-model", "original") == [3, 1]


def test_transfers_can_be_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(residual(3), tmp_path / "profile.txt")

    def time_s(*options: str) -> float:
        plan(
            tmp_path / "profile.txt",
            "--gpus",
            "2",
            "--bandwidth",
            "1e6",
            "--no-replication",
            "--json",
            *options,
        )
        return float(json.loads(capsys.readouterr().out)["bottleneck_s"])

    assert time_s("--activations-free") < 0.6 * time_s()


def test_a_memory_that_suffices_for_nothing_is_an_answer_with_status_1(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(profile_file, "--gpus", "2x2", "--bandwidth", "1e9,1e8", "--memory", "1e6") == 1
    assert (
        "infeasible: no plan for 4 GPUs fits in 1000000 bytes each: the leanest needs 1501010000"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "four", "--bandwidth", "1e9"], "--gpus four: write a number"),
        (["--gpus", "0", "--bandwidth", "1e9"], "a level of 0 workers"),
        (["--gpus", "4x2", "--bandwidth", "1e9"], "bandwidths of 1 levels, and workers of 2 (4x2)"),
        (["--gpus", "4", "--bandwidth", "fast"], "--bandwidth fast: write a number of bytes"),
        (["--gpus", "4", "--bandwidth", "1e9", "--memory", "-1"], "memory -1"),
        (["--gpus", "4", "--bandwidth", "1e9", "--memory", "much"], "--memory much"),
        (["--gpus", "4", "--bandwidth", "1e9", "--memory", ""], "--memory : write a number"),
        (["--gpus", "4", "--bandwidth", "1e9", "--memory", "1G,2G"], "give one number"),
        (["--gpus", "4", "--bandwidth", "1e9", "--latency", ""], "--latency : write a number"),
        (["--gpus", "4", "--bandwidth", "1Q"], "--bandwidth 1Q: write a number of bytes"),
        (["--gpus", "4", "--bandwidth", "G"], "--bandwidth G: write a number of bytes"),
        (["--gpus", "4", "--bandwidth", "1G", "--latency", "a"], "--latency a: write a number of"),
        (
            ["--gpus", "4", "--bandwidth", "1G", "--latency", "0,0"],
            "latencies of 2 levels, and workers of 1",
        ),
        (["--gpus", "4", "--bandwidth", "1G", "--microbatches", "0"], "0 microbatches: give at"),
        (["--gpus", "4", "--bandwidth", "1G", "--microbatches", "5000"], "and at most 4096"),
        (
            ["--gpus", "4", "--bandwidth", "1G", "--latency", "0", "--cost-model", "original"],
            "--latency and --microbatches are for predictions",
        ),
    ],
)
def test_arguments_that_cannot_be_are_named(
    arguments: list[str], message: str, profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(profile_file, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_profile_that_is_not_there_is_named_once_with_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "absent.json"
    assert plan(path, "--gpus", "2", "--bandwidth", "1e9") == 2
    assert capsys.readouterr().err == (
        f"dnnbench plan: the profile {path} cannot be read: No such file or directory: give a file"
        " that `dnnbench profile` or PipeDream has written\n"
    )


def test_a_malformed_profile_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "graph.txt").write_text("node1 -- Conv2d\n")
    assert plan(tmp_path / "graph.txt", "--gpus", "2", "--bandwidth", "1e9") == 2
    assert "graph.txt: line 1: " in capsys.readouterr().err
