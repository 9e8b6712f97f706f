"""Engines: the command for a node, what a status means, and what the user is told."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.controller import slurm
from pytest_dnnbench.controller.engines import Prefix, described_end, mpirun, prefix
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session.nodes import engine_of
from pytest_dnnbench.session.settings import Settings

PROGRAM = ["/a path/python", "-m", "agent"]


@pytest.mark.parametrize(
    ("template", "command"),
    [
        ("ssh {node}", ["ssh", "n2", *PROGRAM]),
        ("ssh {node} {line}", ["ssh", "n2", "'/a path/python' -m agent"]),
        (
            "kubectl exec -i {node} -- {command} x",
            ["kubectl", "exec", "-i", "n2", "--", *PROGRAM, "x"],
        ),
        ("taskset -c {index} env", ["taskset", "-c", "1", "env", *PROGRAM]),
    ],
)
def test_a_template_says_where_node_and_program_go(template: str, command: list[str]) -> None:
    assert Prefix(("n1", "n2"), tuple(template.split())).command("n2", PROGRAM) == command


def test_a_status_is_told_in_words() -> None:
    assert described_end(-9) == described_end(137) == "its agent was ended by SIGKILL"
    assert described_end(255) == "its agent ended with status 255"
    assert "out of memory" in slurm.Slurm(("n1",)).ended(253)
    assert slurm.Slurm(("n1",)).ended(143) == "its job step was ended by SIGTERM"


def test_srun_starts_one_unbound_step_on_the_node() -> None:
    command = slurm.Slurm(("n1", "n2")).command("n2", PROGRAM)
    assert command[:5] == ["srun", "-N1", "-n1", "-w", "n2"]
    assert {"--unbuffered", "--overlap", "--cpu-bind=none"} < set(command)
    assert command[-3:] == PROGRAM


def test_mpirun_binds_nothing_and_takes_the_nodes_of_pbs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nodes").write_text("n1\nn1\nn2\n")
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    engine = mpirun((), ("mpirun", "--mca", "plm", "rsh"))
    assert engine.nodes() == ["n1", "n2"]
    command = " ".join(engine.command("n2", PROGRAM))
    assert command.startswith("mpirun --mca plm rsh -np 1 --host n2 --bind-to none")
    monkeypatch.delenv("PBS_NODEFILE")
    with pytest.raises(UsageError, match="needs the names of the nodes"):
        mpirun((), ())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5:00", 300.0),
        ("1:02:03", 3723.0),
        ("1-00:00:01", 86401.0),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_the_time_left_is_read_as_squeue_writes_it(text: str, seconds: float | None) -> None:
    assert slurm.seconds_of(text) == seconds


def settings(**values: Any) -> Settings:
    return replace(Settings(gpus=2), **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": "n1,n2"}, "--dnn-nodes 'n1,n2' needs an engine"),
        ({"engine_command": "ssh {node}"}, "--dnn-engine-command 'ssh {node}' needs an engine"),
        ({"engine": "prefix", "nodes": "n1,n2"}, "needs --dnn-engine-command"),
        ({"engine": "prefix", "engine_command": "ssh {node}"}, "needs the names"),
        ({"engine": "prefix", "engine_command": "ssh", "nodes": "n1,-o"}, "no name of a node"),
        ({"engine": "prefix", "engine_command": "ssh", "nodes": "n1,n1"}, "names 'n1' twice"),
        ({"engine": "prefix", "engine_command": "ssh '", "nodes": "n1"}, "close its quotes"),
        ({"engine": "prefix", "engine_command": "ssh", "nodes": "n[2-1]"}, "no range of numbers"),
        ({"engine": "slrum"}, "unknown: choose from prefix, slurm, mpirun, none"),
        ({"engine": "slurm"}, r"salloc -N 2 pytest .*dnnbench sbatch"),
    ],
)
def test_options_that_cannot_be_are_refused_with_the_fix(
    values: Mapping[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UsageError, match=message):
        engine_of(settings(**values), {})


def test_only_digits_are_a_number_of_nodes() -> None:
    assert engine_of(settings(engine="prefix", engine_command="ssh", nodes="²"), {}) is not None
    with pytest.raises(UsageError, match="needs the names"):
        engine_of(settings(engine="prefix", engine_command="ssh", nodes="2"), {})


def test_a_session_without_nodes_and_one_that_refuses_them_stay_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert engine_of(settings(), {}) is None
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    assert engine_of(settings(engine="none"), {}) is None
    monkeypatch.setenv("PATH", "")  # a container without the commands of Slurm
    with pytest.raises(UsageError, match=r"scontrol is not on the PATH: .* --dnn-engine none"):
        engine_of(settings(), {})
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(UsageError, match="scontrol is not on the PATH"):
        engine_of(settings(), {})
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert engine_of(settings(), {}) is None
    engine = engine_of(
        settings(engine="ours", nodes="a,b"), {"ours": lambda n, c: prefix(n, ("x",))}
    )
    assert engine is not None
    assert engine.nodes() == ["a", "b"]
