"""Job steps of a real Slurm that end in the middle of a session: cancelled, killed for memory, on a
node that is drained or down. One session of cases meets all of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.nodes import ROOT, allocation, namespaces, slurm
from tests.patience import HANG_S
from tests.rank.test_ranks import await_end

CASES = '''
import subprocess, threading
from pathlib import Path
import pytest
from pytest_dnnbench.errors import NodeLost
from tests.cluster import programs
from tests.rank.programs import sum_of_ranks
from tests.rank.test_server_faults import wait_for

def asked(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout

def steps_on(node):
    rows = (row.split() for row in asked("squeue", "-h", "-s", "-o", "%i %N").splitlines())
    return [step for step, where in rows if where == node]

def cancel(node):
    """Cancels the step of the agent there; returns when it is gone."""
    (step,) = steps_on(node)
    asked("scancel", step)
    wait_for(lambda: not steps_on(node))

def lost(ranks, program, *arguments):
    with pytest.raises(NodeLost) as failure:
        ranks.run(program, *arguments)
    assert (failure.value.node, failure.value.rank) == ("n2", 1)
    assert "node n2 was lost: its job step was ended by SIGKILL" in str(failure.value)
    assert "rank 1 of 2 ran there" in str(failure.value)
    return str(failure.value)

def test_cancelled_while_ranks_run(process_group):
    here = Path("ranks")
    here.mkdir()
    def cancel_when_they_run():
        wait_for(lambda: all((here / f"rank{rank}").exists() for rank in range(2)))
        cancel("n2")
    cancelling = threading.Thread(target=cancel_when_they_run)
    cancelling.start()
    said = lost(process_group(2), programs.tell_and_exchange, str(here.absolute()))
    cancelling.join()
    assert "CANCELLED" in said

def test_killed_for_memory(process_group):
    assert "exceeded memory limit" in lost(process_group(2), programs.use_memory_on, 1, 1 << 30)

def test_cancelled_between_launches_on_a_node_that_was_drained(process_group):
    """Slurm lets a job use such a node to its end."""
    assert process_group(2).run(sum_of_ranks) == [1, 1]
    asked("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    cancel("n2")
    assert process_group(2).run(sum_of_ranks) == [1, 1]

def test_a_node_goes_down_and_the_job_with_it(process_group):
    asked("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    wait_for(lambda: not steps_on("n1") and not steps_on("n2"))
    process_group(2).run(sum_of_ranks)

def test_never_reached():
    pass
'''
OPTIONS = (*("-p", "no:cacheprovider", "--dnn-device", "cpu", "--dnn-ranks-per-node", "1"),)
MEMORY_MB = 1400
"""What a step may use: less than a rank that takes 1 GiB, with its agent and fork server."""


def test_a_step_that_ends_is_named_and_the_session_goes_on_until_its_job_ends(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    with (
        namespaces(tmp_path_factory.mktemp("nodes")) as nodes,
        slurm(tmp_path_factory.mktemp("slurm"), *nodes) as variables,
        allocation(variables, f"--mem={MEMORY_MB}") as inside,
    ):
        variables = {**inside, "PYTHONPATH": str(ROOT)}
        variables["SLURM_ACCTG_FREQ"] = "task=1"  # how often memory is looked at; 30 s by default
        variables["DNNBENCH_LEASE_DIR"] = str(tmp_path / "leases")
        session = subprocess.run(
            [sys.executable, "-m", "pytest", "test_cases.py", *OPTIONS],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        await_end(_named_in(tmp_path / "ranks"))
    said = session.stdout + session.stderr
    assert said.count("a new agent is started there") == 1, said
    assert "node n1 was told to end by SIGTERM; stopping as after Ctrl-C" in said, said
    assert "3 passed" in said, said
    assert session.returncode == 2, said  # as after Ctrl-C


def _named_in(folder: Path) -> list[int]:
    """The ranks, fork servers and agents that were there when the first step was cancelled."""
    return [int(pid) for file in folder.iterdir() for pid in file.read_text().split()]
