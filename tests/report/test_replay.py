"""`dnnbench replay`: the same case again, from nothing but its record."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.planner.plan import read_plan
from pytest_dnnbench.report import replay_command
from pytest_dnnbench.report.replay import (
    ROUNDINGS,
    Parting,
    lacking,
    losses_text,
    parting,
    variables_of,
)
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.results.records.saved import SavedRun
from pytest_dnnbench.results.records.schema import Environment, Record, SessionEntry
from pytest_dnnbench.speed_variables import speed_variables
from tests.patience import HANG_S
from tests.report import records

ROOT = Path(__file__).resolve().parents[2]
NAME = "test_cases.py::test_train[single-tests.tiny_models:tiny-1gpu]"
CASES = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")

def test_other(framework, model, gpus, process_group, dnnbench):
    assert False, "a replay runs its case alone"
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "NCCL_"))
    }
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session with one case of two launches, measured with options that are not the defaults."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "test_cases.py").write_text(CASES)
    (folder / "pytest.ini").write_text("[pytest]\n")
    options = (
        "--dnn-frameworks=single --gpus=1 --dnn-device=cpu --dnn-models=tests.tiny_models:tiny"
        " --dnn-launches=2 --dnn-steps=4 --dnn-warmup=2 --dnn-seed=7 --dnn-batch-size=8"
        " --benchmark-json=then.json -k train"
    )
    result = run(folder, "pytest", "-q", *options.split())
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "then.json"


def test_a_record_is_measured_again_and_its_losses_are_the_same(saved: Path) -> None:
    result = run(saved.parent, "pytest_dnnbench", "replay", "then.json::test_train")
    assert "--dnn-seed 7" in result.stderr
    assert "--dnn-batch-size 8" in result.stderr
    assert "losses of 6 steps: the same to the last bit" in result.stdout
    assert "\n1 case: 1 " in result.stdout
    assert "resident_peak_bytes: " in result.stdout
    assert "throughput: " in result.stdout or "disturbed: times are not used" in result.stdout
    assert "a replay runs its case alone" not in result.stdout
    assert result.returncode in (0, 1)  # 1: another process slowed it down, which is said above


def test_other_losses_in_the_record_are_found_at_their_step(saved: Path) -> None:
    content = json.loads(saved.read_text())
    record = content["benchmarks"][0]["extra_info"]["dnnbench"]
    for launch in record["launches"]:
        launch["loss"][3] *= 1.01
    record["environment"]["must_match"]["variables.NCCL_ALGO"] = "Tree"
    (saved.parent / "other.json").write_text(json.dumps(content))
    result = run(saved.parent, "pytest_dnnbench", "replay", "other.json")
    assert "losses part at step 3 of 6: " in result.stdout
    assert "those of the record's own 2 launches do not part" in result.stdout
    assert "NCCL_ALGO=Tree pytest " in result.stderr
    assert "not comparable" not in result.stdout, "ranks had the variable"


def test_what_cannot_be_had_is_refused_with_all_of_it(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(saved.read_text())
    facts = content["benchmarks"][0]["extra_info"]["dnnbench"]["environment"]["must_match"]
    facts |= {"torch": "1.0.0", "variables.NCCL_NET_PLUGIN": "fast"}
    path = saved.parent / "lacking.json"
    path.write_text(json.dumps(content))
    assert main(["replay", str(path)]) == 2
    message = capsys.readouterr().err
    assert "torch: 1.0.0, here " in message
    assert "NCCL_NET_PLUGIN=fast, here not set (it names files of the machine)" in message
    assert "--across" in message


def test_a_case_that_is_not_there_is_refused_with_those_that_are(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", f"{saved}::horovod"]) == 2
    assert f"with one of {NAME}" in capsys.readouterr().err


def measured(losses: list[float], **facts: Any) -> Record:
    record = records.record(
        Case("ddp", "tiny", 2, "train"), {"throughput": [1.0]}, step_time_s=[[0.1] * len(losses)]
    )
    record.launches[0].loss[:] = losses
    record.environment = Environment(must_match=facts)
    return record


def test_losses_part_where_they_differ_by_more_than_rounding() -> None:
    near = 2.0 * (1 + (ROUNDINGS - 1) * 2.0**-23)
    assert parting([2.0, 1.0], [near, 1.0, 0.5], "fp32") is None
    assert parting([2.0, 1.0], [near, 1.01], "fp32") == Parting(1, 1.0, 1.01)
    assert parting([2.0, 1.0], [near, 1.01], "bf16") is None
    (nan,) = [float("nan")]
    assert parting([1.0, nan], [1.0, 0.5], "fp32") is not None
    text = losses_text(measured([2.0, 1.0]), measured([near, 1.0]), "fp32")
    assert text == f"losses of 2 steps: equal within {ROUNDINGS} roundings of fp32"


def session_of(record: Record) -> SavedRun:
    return SavedRun(Path("now.json"), "", SessionEntry(schema=1), {NAME: record})


@pytest.mark.parametrize(("level", "status"), [(1.0, 0), (0.7, 1)])
def test_speed_is_compared_with_the_record_even_if_that_had_regressed(
    level: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    case, launches = Case("ddp", "tiny", 2, "train"), [100.0, 100.1, 99.9]
    then = records.record(
        case, {"throughput": launches}, verdict=records.verdict("regressed", throughput=-0.1)
    )
    now = records.record(case, {"throughput": [level * each * 1.001 for each in launches]})
    assert replay_command._compared(Result(NAME, then), session_of(now), []) == status
    shown = capsys.readouterr().out
    assert f"throughput: {level * 1.001 - 1:+.1%} (95% interval " in shown
    assert ("regressed: " in shown) == bool(status)


def test_a_pipeline_runs_the_plan_that_is_recorded(tmp_path: Path) -> None:
    record = measured([1.0])
    record.plan = records.plan_entry("2-1")
    options = argparse.Namespace(data_dir=None, text=None)
    words = replay_command._words(Result(NAME, record), options, tmp_path)
    plan = read_plan(words[words.index("--dnn-plan") + 1])
    assert plan == record.plan.plan
    record.plan = records.plan_entry("2-1", decided_by="user")
    with_own = replay_command._words(Result(NAME, record), options, tmp_path)
    assert "--dnn-plan" not in with_own  # it is among the record's own options


def test_data_of_the_user_are_asked_for_and_filled_in(tmp_path: Path) -> None:
    case = Case("ddp", "tiny", 2, "train", dataset="mnist")
    result = Result(NAME, records.record(case, {"throughput": [1.0]}))
    with pytest.raises(UsageError, match="--data-dir DIR"):
        replay_command._words(result, argparse.Namespace(data_dir=None, text=None), tmp_path)
    words = replay_command._words(result, argparse.Namespace(data_dir="x", text=None), tmp_path)
    assert words[words.index("--dnn-data-dir") + 1] == "x"


def test_facts_that_may_differ_are_not_lacking() -> None:
    facts = {"torch": "1.0", "cpu": "another", "variables.NCCL_ALGO": "Tree", "cores": 4}
    result = Result("x", measured([1.0], **facts))
    assert len(lacking(result)) == 2
    assert lacking(result, ["torch", "cpu"]) == []
    for across in ("variables", "NCCL_ALGO", "variables.NCCL_ALGO"):
        assert variables_of(result, {}, [across]).set == {}


def test_the_variables_of_a_replay_are_those_of_the_record() -> None:
    long = next(iter(speed_variables({"NCCL_A": "x" * 500}).values()))
    facts = {
        "variables.NCCL_ALGO": "Tree",
        "variables.NCCL_PROTO": "LL",
        "variables.NCCL_TOPO_FILE": "topology.xml",
        "variables.TORCH_LOGS_OUT": "/root/x",
        "variables.NCCL_A": long,
        "variables.LD_PRELOAD": "evil",
        "variables.PYTHONPATH": "evil",
    }
    here = {
        "NCCL_PROTO": "LL",  # as it was
        "NCCL_DEBUG": "INFO",  # was not there
        "PATH": "/bin",  # nothing that decides speed
        "CUDA_VISIBLE_DEVICES": "0",  # recorded in another way
    }
    variables = variables_of(Result("x", measured([1.0], **facts)), here)
    assert variables.set == {"NCCL_ALGO": "Tree"}
    assert variables.unset == ("NCCL_DEBUG",)
    assert variables.words == ["env", "-u", "NCCL_DEBUG", "NCCL_ALGO=Tree"]
    assert variables.of(here) == {
        "NCCL_PROTO": "LL",
        "NCCL_ALGO": "Tree",
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    names = [line.partition("=")[0] for line in variables.refused]
    assert names == ["NCCL_TOPO_FILE", "TORCH_LOGS_OUT", "NCCL_A", "LD_PRELOAD", "PYTHONPATH"]
    assert variables_of(Result("x", measured([1.0])), {}).words == []


def test_losses_that_part_say_whether_the_record_repeats_itself() -> None:
    then, now = measured([2.0, 1.0]), measured([2.0, 0.5])
    assert losses_text(then, now, "fp32").endswith(
        "; the record has one launch, which does not show whether its losses repeat"
    )
    then.launches.append(measured([2.0, 1.0]).launches[0])
    assert losses_text(then, now, "fp32").endswith("record's own 2 launches do not part")
    then.launches.append(measured([2.1, 1.0]).launches[0])
    assert losses_text(then, now, "fp32").endswith("launches part as well, at step 0")
