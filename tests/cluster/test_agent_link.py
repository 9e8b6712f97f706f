"""The link to an agent, when an interrupt comes in the middle of a message, or the agent is none.
The agents here answer without a node behind them."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.controller import agent_link, agent_process, remote_node
from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent import end_agent
from pytest_dnnbench.controller.agent_link import AGENT, AgentLink
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.engines import Prefix
from pytest_dnnbench.controller.launch_part import RankTask
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.node_placement import NodePlacements
from pytest_dnnbench.controller.remote_node import RemoteNode
from pytest_dnnbench.controller.remote_part import RemotePart
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.proc import descendants_of
from pytest_dnnbench.session.nodes import hello
from tests.patience import HANG_S
from tests.rank.test_server_faults import wait_for

# Waits for a file, then answers every request; says "done" of all but pings.
_AGENT = """
import os, sys, time
from pytest_dnnbench.controller import agent_messages as say
os.write(1, say.GREETING)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
frames = say.Frames(say.FromController)
while data := os.read(0, 1 << 20):
    for request in frames.take(data):
        pong = say.Pong(request.token, clock_s=1.0)
        reply = pong if isinstance(request, say.Ping) else say.Done(request.token)
        told = say.framed(say.Terminated("SIGTERM")) if isinstance(request, say.Poll) else b""
        os.write(1, told + say.framed(reply))
"""

WAIT_S, LEAST_S = 1.5, 0.01

LARGE = say.Route(address="x" * (1 << 20))
"""More than a pipe holds."""


@contextmanager
def linked(tmp_path: Path, unasked: Any = lambda _: None) -> Iterator[AgentLink]:
    """A started link. Its agent reads once tmp_path / "go" is there."""
    agent = tmp_path / "agent.py"
    agent.write_text(_AGENT)
    engine = Prefix(("n1",), (sys.executable, str(agent), str(tmp_path / "go"), "{command}"))
    link = AgentLink("n1", engine, unasked=unasked, lost=lambda _: None)
    link.start()
    try:
        yield link
    finally:
        link.close()


class InterruptedAtAFullPipe:
    """Stands for the module `select`. Ctrl-C comes when nothing more can be written."""

    @staticmethod
    def select(sources: Any, sinks: Any, others: Any, _: float) -> Any:
        """Never waits."""
        ready = select.select(sources, sinks, others, 0)
        if not ready[1]:
            raise KeyboardInterrupt
        return ready


def test_a_message_that_an_interrupt_leaves_half_sent_is_finished_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent took the next message for the rest of it, and the node was waited for in vain."""
    with linked(tmp_path) as link:
        with monkeypatch.context() as patched:
            patched.setattr(agent_process, "select", InterruptedAtAFullPipe)
            with pytest.raises(KeyboardInterrupt):
                link.ask(LARGE)
        (tmp_path / "go").touch()
        assert link.call(say.Ping(), say.Pong, HANG_S).clock_s == 1.0


def test_an_interrupt_at_the_moment_of_writing_gives_the_agent_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(descriptor: int, data: Any) -> int:
        write(descriptor, data)
        raise KeyboardInterrupt

    with linked(tmp_path) as link:
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(os, "write", interrupted)
            link.ask(say.Ping())
        with pytest.raises(LaunchError, match="n1 was lost: an interrupt came in the middle of a"):
            link.call(say.Ping(), say.Pong, HANG_S)
        assert link.pid is None


def test_a_reply_that_came_with_an_interrupting_message_is_not_lost(tmp_path: Path) -> None:
    """The agent says that it was told to end, which stops the session, and replies."""

    def stop(message: say.Message) -> None:
        assert isinstance(message, say.Terminated)
        raise KeyboardInterrupt

    (tmp_path / "go").touch()
    with linked(tmp_path, stop) as link:
        token = link.ask(say.Poll())
        with pytest.raises(KeyboardInterrupt):
            link.answer(token, say.Done, HANG_S)
        assert link.answer(token, say.Done, HANG_S).token == token


@pytest.fixture
def out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Four nodes whose engine's commands neither answer nor end. Each of the waits is WAIT_S
    long."""
    for module, name in (
        *((agent_link, "ANSWER_S"), (agent_process, "END_S")),
        *((remote_node, "CONNECT_S"), (remote_node, "LEAST_CONNECT_S")),
    ):
        monkeypatch.setattr(module, name, LEAST_S if name == "LEAST_CONNECT_S" else WAIT_S)
    stuck = tmp_path / "stuck.py"
    stuck.write_text("import time\ntime.sleep(3600)\n")
    names = ("n1", "n2", "n3", "n4")
    engine = Prefix(names, (sys.executable, str(stuck), "{command}"))
    said = hello((), device="cpu", timed=False, lease_timeout_s=HANG_S)
    nodes = [RemoteNode(name, engine, lambda: said) for name in names]
    for node in nodes:
        node.welcome = say.Welcome(
            1, machine=detect("cpu"), addresses={}, speeds={}, boot_id="",
            hostname="", pid=1,
        )  # fmt: skip
    return Cluster(nodes, ranks_per_node=1)


def test_nodes_that_are_out_of_reach_are_closed_side_by_side(
    out_of_reach: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one's command is waited for and killed, then the one that is to end its agent."""
    before = set(descendants_of(os.getpid()))  # the fork server of other tests
    all_ending, end = threading.Barrier(len(out_of_reach.nodes), timeout=HANG_S), AgentLink._end

    def end_with_the_others(*arguments: Any) -> None:
        all_ending.wait()
        end(*arguments)

    monkeypatch.setattr(AgentLink, "_end", end_with_the_others)
    for node in out_of_reach.nodes:
        assert isinstance(node, RemoteNode)
        node.start()
        node.link.agent_pid = 1 << 22  # the command that would end it never gets there
    begun = time.monotonic()
    out_of_reach.close()
    assert time.monotonic() - begun >= 2 * WAIT_S
    assert not all_ending.broken
    assert not [thread.name for thread in threading.enumerate() if "dnnbench-end" in thread.name]
    assert set(descendants_of(os.getpid())) <= before


def test_nodes_that_are_out_of_reach_are_waited_for_only_once(
    out_of_reach: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch of one rank: each node takes the place of the one before it."""
    nodes, waits_s, call = out_of_reach.nodes, list[float](), AgentLink.call

    def noted_call(link: AgentLink, request: Any, kind: Any, timeout_s: float) -> Any:
        assert [node.link.starts for node in nodes if isinstance(node, RemoteNode)] == [1] * 4
        waits_s.append(timeout_s)
        return call(link, request, kind, timeout_s)

    monkeypatch.setattr(AgentLink, "call", noted_call)
    with (
        pytest.raises(LaunchError, match=r"needs 1 node and 0 of 4 are left: node n1 was lost"),
        NodePlacements(out_of_reach, 10)(1),
    ):
        pass
    started_s = [node._started_s for node in nodes if isinstance(node, RemoteNode)]
    apart_s = max(started_s) - min(started_s)
    assert len(waits_s) == 4
    assert sum(waits_s) <= WAIT_S + apart_s + 4 * LEAST_S, "not one after the other"
    assert list(out_of_reach.lost) == ["n1", "n2", "n3", "n4"]
    out_of_reach.close()


def test_a_rank_that_is_killed_just_before_its_agent_was_lost_with_the_node(
    out_of_reach: Cluster,
) -> None:
    """Slurm kills the processes of a job step one after the other."""
    [node, *_] = out_of_reach.nodes
    assert isinstance(node, RemoteNode)
    node.start()
    part = RemotePart(node.link, WAIT_S)
    for number, code in enumerate((-signal.SIGKILL, -signal.SIGSEGV, None)):
        place = Place(number, 3, "cpu", threads=1, rendezvous="", timeout_s=60)
        part.start(RankTask(place, ("os", "getpid", None), b"", b"", "", (), {}))
        if code is not None:
            part.take(say.RankExited(number, code=code, oom_killed=False))
    part.lost("its job step was ended by SIGKILL")
    out_of_reach.close()
    assert [bool(rank.lost) for rank in part.ranks] == [True, False, True]


def test_only_an_agent_is_ended_by_its_number() -> None:
    """A number may be another process's by the time that an agent is to be ended."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleep) as other, subprocess.Popen([*sleep, AGENT]) as stopped:
        # Not in the middle of exec, where a process has no command line.
        wait_for(Path(f"/proc/{stopped.pid}/cmdline").read_bytes)
        stopped.send_signal(signal.SIGSTOP)
        for process in (other, stopped):
            end_agent(process.pid)
        assert stopped.wait(HANG_S) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
    end_agent(other.pid)  # it is gone


def test_an_agent_that_takes_nothing_in_is_lost(tmp_path: Path) -> None:
    with linked(tmp_path) as link, pytest.raises(LaunchError, match="took nothing in for 1 s"):
        link.ask(LARGE, 1.0)
