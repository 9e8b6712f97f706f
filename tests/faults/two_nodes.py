"""The fault matrix's column for two nodes: `ddp` with a rank on each, every fault of a rank on the
second node, and every fault of a node on either. Data, and where they are planted.

    pytest ── relay ── agent of n1 ── fork server ── rank 0         relay: the engine's step,
           ── relay ── agent of n2 ── fork server ── rank 1         as ssh or srun
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import CaseRun, prepare_run
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.forkserver import PRELOAD, START_TIMEOUT_S
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.errors import DnnbenchError, NodeLost, RankCrashed, RankFailure, RankHung
from pytest_dnnbench.proc import process_fields
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.cluster.nodes import NAMES, cluster, ranks
from tests.faults import matrix
from tests.faults.matrix import FAULTS, Fault, Planted
from tests.patience import HANG_S, TIME_OUTS_S

NODE_FAULTS: Mapping[str, Fault] = {
    "agent killed": Fault(NodeLost, "its agent was ended by SIGKILL"),
    "agent stopped": Fault(NodeLost, "it did not answer"),
    "fork server killed": Fault(RankCrashed, "died of SIGKILL"),
    "fork server stopped": Fault(RankHung, "did not finish within"),
    "engine's step ended": Fault(NodeLost, "was ended by SIGKILL"),
    "link down": Fault(RankFailure, "on node n"),
}
"""A link that is cut is one rank's as much as the other's: either may be blamed."""

RANK_PHASES = ("group", "timed steps")
"""When ranks have not met yet, and when they exchange."""

COMBINATIONS = [
    *((fault, "timed steps", "n2") for fault in FAULTS),
    *(
        (fault, rank_phase, node)
        for fault in NODE_FAULTS
        for rank_phase in RANK_PHASES
        for node in NAMES
    ),
]
"""(fault, rank phase, node)."""

ALLOWED_S = 60.0
"""How much longer than its time-out a failure may take: a stopped agent is asked what its ranks do,
and its process is ended."""

LEFT_S = 60.0
"""How soon nothing is left of the ranks."""

_MARK = "DNNBENCH_TEST_NODES"


@dataclass(frozen=True)
class Nodes:
    """The two connected nodes. `mark` is in the environment of every process on them."""

    cluster: Cluster
    mark: str

    def run(self, environment: Mapping[str, str], timeout_s: float = HANG_S) -> CaseRun:
        """A fresh run of the case, which is not proven: planted faults are."""
        case = Case(
            "ddp", "tests.tiny_models:tiny", 2, "train", image_size=28, batch_size=8, nodes=2
        )
        job = ranks(self.cluster, timeout_s)
        job.environment.update(environment)
        run = prepare_run(
            case,
            Catalog(),
            RankLauncher(job),
            self.cluster.machine,
            steps=3,
            warmup=2,
            data=None,
        )
        run.request = replace(run.request, worker="tests.faults.planting:Ddp")
        run.correctness = CorrectnessEntry()
        return run

    def plant(self, fault: str, rank_phase: str, node: str) -> Planted:
        """What a planted fault becomes; of a hang, with the first time-out in which the ranks get
        as far."""
        there = {"PLANTED_FAULT": f"{fault}@{rank_phase}", "PLANTED_ON": node}
        waits = fault in ("agent stopped", "fork server stopped", "link down")
        hangs = waits or FAULTS.get(fault, NODE_FAULTS["link down"]).kind is RankHung
        for timeout_s in TIME_OUTS_S[1:] if hangs else [HANG_S]:
            run, begun_s = self.run(there, timeout_s), time.monotonic()
            try:
                run.launch()
            except DnnbenchError as error:
                planted = Planted(error, time.monotonic() - begun_s, timeout_s)
                is_there = not isinstance(error, RankHung) or error.rank_phase == rank_phase
                if is_there or fault == "link down":
                    break
            else:
                raise AssertionError(f"{fault} in {rank_phase} on {node} went unnoticed")
        return planted

    def left_behind(self) -> list[str]:
        """Processes on the nodes, besides the agents that are connected and their fork servers,
        that are still there after LEFT_S."""
        deadline = time.monotonic() + LEFT_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _left(self) -> list[str]:
        connected = {node.pid for node in self.cluster.nodes if isinstance(node, RemoteNode)}
        marked = dict(_marked(self.mark))
        agents = {pid for pid, parent in marked.items() if parent in connected}
        return [
            f"process {pid}"
            for pid, parent in marked.items()
            if pid not in agents and parent not in agents
        ]


@contextmanager
def two_nodes(enter: str, folder: Path) -> Iterator[Nodes]:
    """Two nodes behind a relay each. `enter` is the command that enters {node}."""
    mark = uuid.uuid4().hex
    command = f"{sys.executable} -m tests.cluster.relay {enter}"
    command += f" env {_MARK}={mark} PLANTED_HERE={{node}}"
    with cluster(command, folder, PRELOAD) as nodes:
        for node in nodes.nodes:
            node.wait_ready(START_TIMEOUT_S)  # no fault's time is to hold the imports
        yield Nodes(nodes, mark)


def wrong(fault: str, rank_phase: str, node: str, planted: Planted) -> list[str]:
    """What is wrong with the error that a planted fault has become; empty if it is right."""
    expected = FAULTS.get(fault) or NODE_FAULTS[fault]
    rank, error = NAMES.index(node), planted.error
    mistakes = []
    if not isinstance(error, expected.kind):
        mistakes.append(f"{type(error).__name__} instead of {expected.kind.__name__}")
    if expected.shows not in str(error):
        mistakes.append(f"{expected.shows!r} is not shown")
    if f"rank {rank}" not in str(error) and fault != "link down":
        mistakes.append("the rank is not named")
    if isinstance(error, RankFailure) and fault != "link down":
        if (error.rank, error.node) != (rank, node):
            mistakes.append(f"rank {error.rank} on {error.node} is blamed")
        # Of a lost node, what its ranks did at the last look, once a second.
        before = ["start", *matrix.RANK_PHASES[: matrix.RANK_PHASES.index(rank_phase)]]
        possible = [rank_phase, *(before if isinstance(error, NodeLost) else ())]
        if error.rank_phase not in possible:
            mistakes.append(f"the rank phase is {error.rank_phase!r}")
    if planted.took_s > planted.timeout_s + ALLOWED_S:
        mistakes.append(f"it took {planted.took_s:.1f} s")
    return mistakes


def _marked(mark: str) -> Iterator[tuple[int, int]]:
    """The process and its parent of each that has the mark."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
            fields = process_fields(int(name))
        except OSError:  # it is gone
            continue
        if f"{_MARK}={mark}".encode() in environment and fields[0] != "Z":
            yield int(name), int(fields[1])
