"""Slurm and Open MPI, the real ones, over two nodes: one session of cases through each."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import ROOT, namespaces, slurm
from tests.patience import HANG_S

CASES = """
import pytest

ROWS = [("single", 1), ("ddp", 2), ("horovod", 2), ("pipedream", 2)]

@pytest.mark.parametrize("framework, gpus", ROWS)
def test_train(framework, gpus, process_group, dnnbench):
    model, ranks = "tests.tiny_models:tiny", process_group(gpus)
    dnnbench.measure(framework, model, ranks, phase="train")
"""
OPTIONS = (
    *("-p", "no:cacheprovider", "--dnn-device", "cpu", "--dnn-batch-size", "8"),
    *("--dnn-steps", "3", "--dnn-warmup", "1"),
    *("--dnn-ranks-per-node", "1", "--benchmark-json", "saved.json"),
)
_AGENT = """#!/bin/sh
# HOST COMMAND...: stands for ssh
host=$1; shift
case $host in
{net}.2) exec {enter} n1 0 sh -c "$*" ;;
{net}.3) exec {enter} n2 1 sh -c "$*" ;;
esac
exit 1
"""


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The command that enters a node, and the beginning of the nodes' addresses."""
    with namespaces(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the cases."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DNNBENCH_LEASE_DIR", str(tmp_path / "leases"))
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def check(folder: Path, nodes: str, launches: int = 1) -> None:
    """All cases are saved, and ran on these nodes: `single` on the first of them."""
    saved = json.loads((folder / "saved.json").read_text())
    records: list[dict[str, Any]] = [each["extra_info"]["dnnbench"] for each in saved["benchmarks"]]
    frameworks = [record["case"]["framework"] for record in records]
    assert frameworks == ["single", "ddp", "horovod", "pipedream"]
    for record in records:
        spread = record["case"]["framework"] != "single"
        facts = record["environment"]
        assert facts["must_match"].get("ranks_per_node") == ("1-1" if spread else None)
        assert facts["recorded"]["nodes"] == (nodes if spread else nodes.partition(",")[0])
        assert len(record["launches"]) == launches


def test_a_batch_job_of_slurm_is_stopped_requeued_and_continued_over_its_nodes(
    two_nodes: tuple[str, str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The job gets the signal that Slurm sends before a time limit when its first launch is
    done, or a later one: it does not end without."""
    folder.joinpath("conftest.py").write_text(WAITS_FOR_ITS_SIGNAL)
    with slurm(tmp_path_factory.mktemp("slurm"), *two_nodes) as variables:
        job = Job(variables, folder)
        write = [sys.executable, "-m", "pytest_dnnbench", "sbatch", "-N", "2"]
        write += ["--directive=--time=60:00", "--directive=--output=job.log"]
        write += ["--", "pytest", "test_cases.py", *OPTIONS, "--dnn-launches", str(LAUNCHES)]
        job.until(lambda: "idle" in job.asked("sinfo", "-h", "-N", "-o", "%T"))
        job.submit(job.asked(*write))
        journal = folder / ".benchmarks" / "dnnbench-journal.jsonl"
        job.until(lambda: journal.exists() and journal.read_text().count("\n") >= 2)  # and a head
        job.asked("scancel", "--signal=TERM", "--batch", job.number)
        job.until(lambda: (job.fact("Restarts"), job.fact("JobState")) == ("1", "PENDING"))
        # Slurm lets a requeued job wait for two minutes. It cannot start again within the second of
        # its first run's end: slurmd takes its credential, which counts in seconds, for revoked.
        # That end is not over before the nodes say so, which takes longer on a busy machine.
        job.until(lambda: set(job.asked("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"})
        job.asked("scontrol", "update", f"JobId={job.number}", "StartTime=now+3")
        job.until(lambda: job.fact("JobState") not in ("PENDING", "RUNNING", "COMPLETING"))
        assert job.fact("JobState") == "COMPLETED", f"{job.log}\n{job.facts}"
    assert "stopped by SIGTERM" in job.log, job.log
    assert re.search(r"launch(es)? taken from", job.log), job.log
    assert "preflight: 2 nodes in" in job.log, job.log
    check(folder, "n1, n2", LAUNCHES)
    assert not journal.exists()


LAUNCHES = 3
WAITS_FOR_ITS_SIGNAL = f"""
import os, time
from pathlib import Path

def pytest_runtest_call():
    journal = Path(".benchmarks", "dnnbench-journal.jsonl")
    launches = journal.read_text().count("\\n") - 1 if journal.exists() else 0
    if launches == {4 * LAUNCHES - 1} and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        time.sleep({HANG_S})
"""
"""Of the four cases, before the last launch."""
LONGEST_S = 600.0
"""How long anything of a job may take: enough on a machine that is busy with other tests."""


class Job:
    """A batch job of the Slurm behind `variables`."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self.variables = variables
        self.folder = folder
        self.number = ""

    def asked(self, *command: str, given: str | None = None) -> str:
        """What a command answers."""
        asked = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables,
            input=given,
            capture_output=True,
            text=True,
        )
        return asked.stdout

    def submit(self, script: str) -> None:
        """Submits a script."""
        self.number = self.asked("sbatch", "--parsable", "--export=ALL", given=script).strip()

    def fact(self, name: str) -> str:
        """What `scontrol show job` says of the job under this name."""
        return dict(word.partition("=")[::2] for word in self.facts.split()).get(name, "")

    @property
    def facts(self) -> str:
        """All of it."""
        return self.asked("scontrol", "show", "job", self.number)

    @property
    def log(self) -> str:
        """What the job has written."""
        log = self.folder / "job.log"
        return log.read_text() if log.exists() else ""

    def until(self, condition: Callable[[], bool]) -> None:
        """Returns when something has happened."""
        deadline = time.monotonic() + LONGEST_S
        while not condition():
            assert time.monotonic() < deadline, f"{self.log or 'no log'}\n{self.facts}"
            time.sleep(0.3)


def test_mpirun_starts_the_agents_of_a_session(
    two_nodes: tuple[str, str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which("mpirun") is None:
        pytest.skip("needs mpirun, of Debian's openmpi-bin")
    command, net = two_nodes
    agent = folder / "agent"
    agent.write_text(_AGENT.format(net=net, enter=command.split()[0]))
    agent.chmod(0o700)
    words = f"mpirun --mca plm rsh --mca plm_rsh_agent {agent} --mca oob_tcp_if_include {net}.0/24"
    # Not in /tmp, by the nodes' names, which another session of these tests has too.
    words += f" --mca orte_tmpdir_base {tmp_path_factory.mktemp('ompi')}"
    session = [sys.executable, "-m", "pytest", "test_cases.py", *OPTIONS, "--dnn-launches", "1"]
    session += ["--dnn-preflight", "off"]
    nodes = ["--dnn-engine", "mpirun", "--dnn-nodes", f"{net}.2,{net}.3"]
    done = subprocess.run(
        [*session, *nodes, "--dnn-engine-command", words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "preflight" not in done.stdout
    check(folder, f"{net}.2, {net}.3")
