"""Ranks on two nodes by their agents, here both on this machine: what crosses, and what becomes of
a launch when a rank, an agent or pytest itself goes."""

import operator
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_messages import Hello
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.engines import Prefix
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.controller.remote_part import RemotePart
from pytest_dnnbench.errors import (
    LaunchError,
    NodeLost,
    RankCrashed,
    RankRaised,
    UsageError,
)
from pytest_dnnbench.proc import descendants_of, has_ended, is_stopped
from pytest_dnnbench.session.nodes import hello
from tests.cluster import programs
from tests.cluster.nodes import ROOT, cluster, ranks
from tests.patience import HANG_S, failure_at_hang
from tests.rank import programs as rank_programs
from tests.rank.test_ranks import await_end
from tests.rank.test_server_faults import wait_for
from tests.sockets import listening


def agents(nodes: Cluster) -> list[int]:
    """The processes of the agents; the engine's command becomes the agent here."""
    return [node.pid or 0 for node in nodes.nodes if isinstance(node, RemoteNode)]


def descriptors(nodes: Cluster) -> list[int]:
    """How many descriptors each agent has open."""
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in agents(nodes)]


def test_ranks_of_two_nodes_meet_and_know_their_places(two_agents: Cluster) -> None:
    job = ranks(two_agents)
    assert job.run(rank_programs.sum_of_ranks) == [1, 1]
    answers = job.launch("tests.cluster.programs:places")
    places = [place for place, _, _ in answers]
    assert [place.node for place in places] == ["n1", "n2"]
    assert [(place.rank, place.local_rank, place.local_world_size) for place in places] == [
        (0, 0, 1),
        (1, 0, 1),
    ]
    assert len({place.store for place in places}) == 1
    assert [place.store_descriptor is None for place in places] == [False, True]
    assert [interface for _, _, interface in answers] == ["lo", "lo"]
    assert [share.host.ranks for share in job.placement.shares] == [1, 1]
    for offset in job.clock.offsets:  # of one and the same clock
        assert abs(offset.offset_s) <= offset.uncertainty_s < HANG_S


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"python": "2.7.18"}, r"Python 3\S+ there and 2.7.18 here"),
        ({"packages": {"torch": "1.0"}}, r"torch 2\S+ there and 1.0 here"),
        ({"packages": {"no-such": "1"}}, "no-such is missing there and 1 here"),
        ({"packages": {"torch": None}}, r"torch 2\S+ there and none here"),
    ],
)
def test_a_node_with_another_environment_is_refused_with_both_versions(
    theirs: dict[str, Any], message: str
) -> None:
    def first_message() -> Hello:
        message = hello((), device="cpu", timed=False, lease_timeout_s=HANG_S)
        return msgspec.structs.replace(message, **theirs)

    nodes = Cluster([RemoteNode("n1", Prefix(("n1",), ("env",)), first_message)])
    with pytest.raises(UsageError, match=f"node n1: {message}: give every node the same"):
        nodes.connect()
    assert agents(nodes) == [0], "none is left running"


def test_an_agent_of_another_version_says_so_before_any_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The messages of two versions may differ."""
    monkeypatch.setattr("importlib.metadata.version", lambda _: "9.9")

    def first_message() -> Hello:
        raise AssertionError("no message is sent")

    node = RemoteNode("n1", Prefix(("n1",), ("env",)), first_message)
    node.start()
    with pytest.raises(LaunchError, match=r"pytest-dnnbench 0\S+ there and 9.9 here: install"):
        node.link.call(say.Ping(), say.Pong, 60)
    node.close()


def test_arrays_and_tensors_cross_and_pickles_do_not(two_agents: Cluster) -> None:
    value: dict[str, Any] = {
        "array": np.arange(6, dtype=np.float64).reshape(2, 3),
        "tensor": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        "nested": [(1, "two", None), {3: {4.5}}, b"6"],
    }
    for answer in ranks(two_agents).run(programs.doubled, value):
        assert np.array_equal(answer["array"], value["array"] * 2)
        assert answer["tensor"].tolist() == [2.0, 4.0]
        assert answer["nested"] == value["nested"]
    with pytest.raises(UsageError, match="Path cannot go to another machine"):
        ranks(two_agents).run(rank_programs.echo, Path("x"))


def test_a_rank_that_raises_or_dies_is_named_with_its_node(two_agents: Cluster) -> None:
    with pytest.raises(RankRaised, match="rank 1 of 2 on node n2 raised ValueError: planted") as it:
        ranks(two_agents).run(rank_programs.raise_on, 1)
    assert it.value.node == "n2"
    assert "about to fail" in it.value.output
    with pytest.raises(RankCrashed, match="rank 0 of 2 on node n1 died of SIGSEGV"):
        ranks(two_agents).run(rank_programs.die_on, 0, int(signal.SIGSEGV))


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_whose_end_its_node_tells_late_is_named_before_peers_that_raised(
    two_agents: Cluster, monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    """A fork server that had no core for a second let the peer on the other node be blamed. Here it
    stands still until the agent is asked how its ranks ended."""
    job = ranks(two_agents)
    job.run(rank_programs.sum_of_ranks)
    (server,) = descendants_of(agents(two_agents)[dies])
    ask = RemotePart.ask_ends
    late: list[bool] = []

    def ask_and_wake(part: RemotePart) -> None:
        ask(part)
        if part.ranks[0].number == dies:
            late.append(is_stopped(server) and part.ranks[0].pending)
            os.kill(server, signal.SIGCONT)

    monkeypatch.setattr(RemotePart, "ask_ends", ask_and_wake)
    where = f"rank {dies} of 2 on node n{dies + 1}"
    try:
        with pytest.raises(RankCrashed, match=f"{where} died of SIGSEGV"):
            job.run(programs.die_behind_a_stopped_server, dies)
    finally:
        os.kill(server, signal.SIGCONT)
    assert late == [True]
    assert job.run(rank_programs.sum_of_ranks) == [1, 1]


def test_a_rank_that_hangs_is_named_with_its_node_and_its_stacks(two_agents: Cluster) -> None:
    job = ranks(two_agents)
    hung = failure_at_hang(
        job,
        lambda: job.run(rank_programs.hang_on, 1),
        lambda hung: hung.rank_phase == "program",
    )
    assert re.search(r"rank 1 on node n2 is in no collective.*the stacks", str(hung))
    assert "in hang_on" in str(hung)


def test_nobody_listens_between_launches_and_launches_leave_nothing(two_agents: Cluster) -> None:
    job = ranks(two_agents)
    job.run(rank_programs.sum_of_ranks)
    held = descriptors(two_agents)
    for _ in range(5):
        job.run(rank_programs.sum_of_ranks)
    # An agent may still be closing what its last launch had.
    wait_for(lambda: all(map(operator.le, descriptors(two_agents), held)))
    for agent in agents(two_agents):
        (server,) = descendants_of(agent)  # and no rank
        assert listening(agent) == listening(server) == []


def test_a_killed_agent_fails_its_launch_by_name_and_the_next_one_starts_anew(
    two_agents: Cluster,
) -> None:
    with pytest.raises(NodeLost, match=r"node n2 was lost: its agent was ended by SIGKILL") as it:
        ranks(two_agents).run(programs.kill_agent_on, 1)
    assert (it.value.node, it.value.rank) == ("n2", 1)
    assert "rank 1 of 2 ran there" in str(it.value)
    assert ranks(two_agents).run(rank_programs.sum_of_ranks) == [1, 1]


def test_an_agent_that_a_rank_kills_at_once_is_named_with_its_rank(two_agents: Cluster) -> None:
    """While the clocks of the nodes are still being read."""
    job = ranks(two_agents)
    with pytest.raises(NodeLost, match=r"node n2 was lost: .*rank 1 of 2 ran there"):
        job.launch("tests.cluster.programs:kill_agent_at_once", 1)
    assert job.run(rank_programs.sum_of_ranks) == [1, 1]


def test_a_node_that_is_late_to_start_its_rank_keeps_no_other_waiting(
    two_agents: Cluster, tmp_path: Path
) -> None:
    job = ranks(two_agents)
    job.run(rank_programs.sum_of_ranks)
    (late,) = descendants_of(agents(two_agents)[0])  # n1's fork server
    with ThreadPoolExecutor() as launching:
        os.kill(late, signal.SIGSTOP)
        try:
            answers = launching.submit(job.launch, "tests.cluster.programs:sign", str(tmp_path))
            wait_for(lambda: (tmp_path / "rank1").exists())
            assert not (tmp_path / "rank0").exists()
        finally:
            os.kill(late, signal.SIGCONT)
        assert answers.result() == [0, 1]


def test_a_node_on_which_a_launch_cannot_begin_is_named_with_the_cause(tmp_path: Path) -> None:
    """Its temporary folder has gone, as where the batch system clears it."""
    folders = [tmp_path / "tmp-n1", tmp_path / "tmp-n2"]
    for folder in folders:
        folder.mkdir()
    with cluster(f"env TMPDIR={tmp_path}/tmp-{{node}}", tmp_path / "leases") as nodes:
        job = ranks(nodes)
        assert job.run(rank_programs.sum_of_ranks) == [1, 1]
        for folder in reversed(folders):  # another node, and the one that leads
            folder.rmdir()
            with pytest.raises(LaunchError, match=rf"node {folder.name[4:]}: FileNotFoundError: "):
                job.run(rank_programs.sum_of_ranks)
            folder.mkdir()
            assert job.run(rank_programs.sum_of_ranks) == [1, 1], "the next launch begins"
        assert nodes.lost == {}
        links = [node.link for node in nodes.nodes if isinstance(node, RemoteNode)]
        assert [link.starts for link in links] == [1, 1]
        assert all(not link._replies and not link._unanswered for link in links)


def test_a_stopped_agent_fails_its_launch_within_its_time_out(
    two_agents: Cluster, tmp_path: Path
) -> None:
    file, job = tmp_path / "pids", ranks(two_agents)
    lost = failure_at_hang(
        job, lambda: job.run(programs.stop_agent_on, 1, str(file)), lambda hung: False
    )
    assert isinstance(lost, NodeLost)
    assert "node n2 was lost: it did not answer" in str(lost)
    assert lost.rank == 1
    await_end([int(pid) for pid in file.read_text().split()])
    assert ranks(two_agents).run(rank_programs.sum_of_ranks) == [1, 1]


def test_an_agent_that_is_told_to_end_says_so_and_goes_on(
    two_agents: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before a time limit: the session stops by itself, in order."""
    reasons: list[str] = []
    node = two_agents.nodes[1]
    assert isinstance(node, RemoteNode)
    monkeypatch.setattr(node, "_stop", reasons.append)
    ranks(two_agents).run(rank_programs.sum_of_ranks)
    os.kill(node.pid or 0, signal.SIGTERM)
    wait_for(lambda: node.clock() and reasons)
    assert reasons == ["node n2 was told to end by SIGTERM"]
    assert ranks(two_agents).run(rank_programs.sum_of_ranks) == [1, 1]


@pytest.fixture
def killed_pytest(tmp_path: Path) -> list[int]:
    """The agents, fork servers and ranks of a controller that was killed while they exchanged."""
    lines = [
        "from pathlib import Path",
        "from tests.cluster import programs",
        "from tests.cluster.nodes import cluster, pinned, ranks",
        f"with cluster(pinned(), Path({str(tmp_path)!r}) / 'leases') as nodes:",
        f"    ranks(nodes).run(programs.tell_and_exchange, {str(tmp_path)!r})",
    ]
    controller = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], cwd=ROOT)
    files = [tmp_path / f"rank{rank}" for rank in range(2)]
    wait_for(lambda: all(len(_pids_in(file)) == 3 for file in files))
    processes = [pid for file in files for pid in _pids_in(file)]
    assert not any(map(has_ended, processes))
    controller.kill()
    controller.wait()
    return processes


def _pids_in(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def test_a_killed_pytest_leaves_nothing_on_any_node(killed_pytest: list[int]) -> None:
    await_end(killed_pytest)
