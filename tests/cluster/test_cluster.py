"""Which nodes a launch takes, how many ranks each, and by which network they meet."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.job import JobShare
from pytest_dnnbench.controller.machine import Gpu, Machine
from pytest_dnnbench.controller.node_placement import (
    NodePlacements,
    TimeLimit,
    with_clocks,
    with_skews,
)
from pytest_dnnbench.controller.placement import Placement
from pytest_dnnbench.controller.rank_clock import ClockOffset, on_ours
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.controller.side import Side
from pytest_dnnbench.errors import LaunchError, UsageError
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.results.records.schema import Conditions, NodeConditions


class FakeNode:
    """A node with so many GPUs, or of so many cores."""

    environment: Mapping[str, str] = {}
    side = Side()

    def __init__(self, name: str, gpus: int = 0, cores: int = 8, **addresses: str) -> None:
        self.name = name
        kind = "cuda" if gpus else "cpu"
        there = tuple(Gpu("H", f"GPU-{name}-{index}") for index in range(gpus))
        self.machine = Machine(kind, there, "1", cores, "cpu", "why", ())
        self.addresses = {"lo": "127.0.0.1", **addresses}
        self.speeds = {"eth0": 10_000} if "eth0" in addresses else {}
        self.boot_id = f"boot of {name}"
        self.broken = ""
        self.leased: list[tuple[int, bool]] = []
        self.routes: dict[str, tuple[str, str]] = {}

    def start(self) -> None:
        pass

    def wait_ready(self, timeout_s: float) -> None:
        self.connect()

    def connect(self) -> None:
        if self.broken:
            raise LaunchError(f"node {self.name} was lost: {self.broken}")

    def route_to(self, address: str) -> tuple[str, str]:
        return self.routes.get(address, ("", ""))

    @contextmanager
    def lease(self, ranks: int, timeout_s: float, *, leased: bool) -> Iterator[Placement]:
        self.leased.append((ranks, leased))
        placement = Placement(("cpu",) * ranks, 2)
        yield placement
        placement.conditions = Conditions(disturbed=f"busy {self.name}", others_cores=0.5)

    def close(self) -> None:
        pass


def fake(*facts: Any, **more: Any) -> Any:
    return FakeNode(*facts, **more)


def cluster(*nodes: Any, **settings: Any) -> Cluster:
    return Cluster(nodes, **settings)


@pytest.mark.parametrize(
    ("gpus", "settings", "world_size", "shares"),
    [
        ([4, 4], {}, 4, [4]),
        ([4, 4], {}, 6, [3, 3]),
        ([4, 4], {"spread": 2}, 4, [2, 2]),
        ([4, 4], {"spread": 2}, 1, [1]),
        ([4, 4], {"spread": 2}, 3, [2, 1]),
        ([2, 4, 4], {}, 8, [2, 3, 3]),
        ([4, 4], {"ranks_per_node": 1}, 2, [1, 1]),
    ],
)
def test_a_launch_takes_as_few_nodes_as_it_fits_on_or_is_spread(
    gpus: Sequence[int], settings: dict[str, Any], world_size: int, shares: list[int]
) -> None:
    nodes = [fake(f"n{number}", count) for number, count in enumerate(gpus)]
    chosen = cluster(*nodes, **settings)
    assert chosen.ranks_per_node(world_size) == shares
    assert chosen.nodes_for(world_size) == len(shares)


def test_gpus_cannot_be_too_few_and_cpu_ranks_may_outnumber_cores() -> None:
    with pytest.raises(LaunchError, match="9 ranks do not fit on 2 nodes: a takes 4, b takes 4"):
        cluster(fake("a", 4), fake("b", 4)).ranks_per_node(9)
    assert cluster(fake("a", cores=2), fake("b", cores=2)).ranks_per_node(8) == [4, 4]


def test_nodes_that_cannot_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="different devices"):
        cluster(fake("a", 1), fake("b")).connect()
    with pytest.raises(UsageError, match="several nodes have the GPU GPU-a-0"):
        cluster(fake("a", 1), fake("a", 1)).connect()
    broken = fake("b")
    broken.broken = "no route to host"
    with pytest.raises(UsageError, match="node b was lost: no route to host: see that"):
        cluster(fake("a"), broken).connect()


def test_nodes_meet_where_routes_lead_both_ways() -> None:
    """Both have a bridge of containers, with an address of one of them only; no route back leads
    over it."""
    a = fake("a", docker0="172.17.0.1", eth0="10.0.0.2")
    b = fake("b", eth0="10.0.0.3")
    b.routes = {"172.17.0.1": ("eth0", "10.0.0.3"), "10.0.0.2": ("eth0", "10.0.0.3")}
    a.routes = {"10.0.0.3": ("eth0", "10.0.0.2")}
    pair = cluster(a, b)
    assert pair.hosts([a, b], [2, 1]) == [
        Host("10.0.0.2", "eth0", 2, 10_000),
        Host("10.0.0.3", "eth0", 1, 10_000),
    ]
    with pytest.raises(UsageError, match="--dnn-interface ib0: node a has no IPv4 address on it"):
        cluster(a, b, interface="ib0").hosts([a, b], [1, 1])
    b.routes = {}
    with pytest.raises(LaunchError, match=r"no network leads from b to a .*--dnn-interface"):
        cluster(a, b).hosts([a, b], [1, 1])


def test_of_several_networks_that_of_the_fastest_interfaces_is_taken() -> None:
    """Ports for administration often come first."""
    a = fake("a", eno1="10.0.0.2", ib0="10.1.0.2", eno2="10.2.0.2")
    b = fake("b", enp1="10.0.0.3", ib0="10.1.0.3", enp2="10.2.0.3")
    a.routes = {f"10.{net}.0.3": (name, "") for net, name in enumerate(("eno1", "ib0", "eno2"))}
    b.routes = {
        f"10.{net}.0.2": (name, f"10.{net}.0.3") for net, name in enumerate(("enp1", "ib0", "enp2"))
    }

    def taken(a_mbit_s: dict[str, int], b_mbit_s: dict[str, int]) -> list[str]:
        a.speeds, b.speeds = a_mbit_s, b_mbit_s
        return [host.interface for host in cluster(a, b).hosts([a, b], [1, 1])]

    assert taken({"eno1": 1000, "ib0": 100_000}, {"enp1": 1000, "ib0": 100_000}) == ["ib0", "ib0"]
    assert taken({"eno1": 1000, "eno2": 10_000}, {"enp1": 1000, "enp2": 10_000}) == ["eno2", "enp2"]
    slow_end = taken({"eno1": 1000, "ib0": 100_000}, {"enp1": 1000, "ib0": 100})
    assert slow_end == ["eno1", "enp1"], "the slower end counts"
    assert taken({}, {}) == ["eno1", "enp1"], "without speeds the first one"


NAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def share(interface: str) -> JobShare:
    node: Any = fake("a")
    part: Any = None
    return JobShare(node, part, 1, interface=interface)


def test_ranks_use_the_interface_of_the_route_or_the_users_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert share("ib0").interface_variables == dict(zip(NAMES, ("ib0", "=ib0"), strict=True))
    assert share("ib0").users_interfaces == {}
    assert share("").interface_variables == {}, "the fork server's say loopback"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "hsn")
    assert share("ib0").interface_variables == {"GLOO_SOCKET_IFNAME": "ib0"}
    assert share("ib0").users_interfaces == {"NCCL_SOCKET_IFNAME": "hsn"}
    assert share("").users_interfaces == {}
    assert share("lo").users_interfaces == {}, "nodes of one machine stay on it"
    assert share("lo").interface_variables == dict(zip(NAMES, ("lo", "=lo"), strict=True))


def test_two_agents_of_one_machine_meet_on_loopback_and_lease_once() -> None:
    a, b = fake("a", eth0="10.0.0.2"), fake("b", eth0="10.0.0.2")
    b.boot_id = a.boot_id
    placements = NodePlacements(cluster(a, b, ranks_per_node=1), 10)
    with placements(2) as placement:
        assert [share.host for share in placement.shares] == [Host("127.0.0.1", "lo", 1)] * 2
    assert (a.leased, b.leased) == ([(1, False)], [(1, True)])
    assert placement.conditions.disturbed == "node a: busy a; node b: busy b"
    assert placement.conditions.others_cores == 1.0


def test_a_lost_node_is_replaced_or_named() -> None:
    nodes = [fake(name, 1) for name in "abc"]
    for node in nodes:
        node.boot_id = "one machine"
    placements = NodePlacements(cluster(*nodes), 10)
    nodes[1].broken = "gone"
    with placements(2) as placement:
        assert [share.node.name for share in placement.shares] == ["a", "c"]
    nodes[0].broken = "gone too"
    with (
        pytest.raises(LaunchError, match=r"needs 2 nodes and 1 of 3 are left: .*gone; .*gone too"),
        placements(2),
    ):
        pass


def test_no_launch_begins_that_would_not_end_before_the_job_does() -> None:
    now, reasons = [0.0], list[str]()
    limit = TimeLimit(100.0, reasons.append, clock=lambda: now[0])
    for took_s in (30.0, 10.0):
        with limit.launch():
            now[0] += took_s
    assert reasons == []  # 60 s were left, and 1.5 x 30 + 10 needed
    now[0] += 6.0
    with limit.launch():
        pass
    assert reasons == ["the job ends in 54 s, and a launch takes up to 30 s"]


def test_times_of_another_node_are_moved_to_our_clock() -> None:
    theirs = RankReport(0, 6.0, 9.0, (0, 1), (7.0, 9.0), (4, 4), 4, clock_s=(5.5, 9.5))
    (ours,) = on_ours([theirs], [ClockOffset(5.0, 0.1)])
    assert ours.window_start_s == theirs.window_start_s - 5.0
    assert ours.step_end_s == tuple(end_s - 5.0 for end_s in theirs.step_end_s)
    assert ours.clock_s == (theirs.clock_s[0] - 5.0, theirs.clock_s[1] - 5.0)
    assert ours.step_samples == theirs.step_samples


def test_the_offset_during_a_launch_allows_for_drift() -> None:
    during = ClockOffset(1.0, 0.01).during(ClockOffset(1.2, 0.03))
    assert during.offset_s == pytest.approx(1.1)
    assert during.uncertainty_s == pytest.approx(0.1 + 0.03)
    nodes = [NodeConditions(name="a", ranks=2), NodeConditions(name="b", ranks=1)]
    clocks = [(0.0, 0.1), (0.0, 0.1), (5.0, 0.2)]
    recorded = with_clocks(Conditions(nodes=nodes), clocks)
    assert [node.clock_offset_s for node in recorded.nodes] == [0.0, 5.0]


def test_a_node_whose_ranks_do_more_work_of_their_own_has_a_skew() -> None:
    nodes = [NodeConditions(name="a", ranks=2), NodeConditions(name="b", ranks=1)]
    work = [[0.9, 1.0, 1.1], [1.0, 1.0, 2.0], [1.4, 1.5, 1.6]]
    conditions = Conditions(nodes=nodes)
    assert [node.skew for node in with_skews(conditions, work).nodes] == [0.0, 0.5]
    assert with_skews(conditions, []) == conditions
    alone = Conditions(nodes=nodes[:1])
    assert with_skews(alone, work[:2]) == alone


ASKED = """
import pytest

@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("framework", ["single", "ddp"])
def test_train(framework, gpus, process_group, dnnbench):
    pass

def test_more(framework, gpus, process_group, dnnbench):
    pass
"""


def test_a_node_that_is_absent_ends_the_session_in_one_line_and_is_asked_once(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_one=ASKED, test_two=ASKED)
    command = "sh -c 'echo {node} >> asked; echo no route to {node} >&2; exit 255'"
    options = ["--dnn-engine=prefix", "--dnn-nodes=n[8-9]", f"--dnn-engine-command={command}"]
    result = pytester.runpytest_subprocess("-q", "--gpus=2", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = filter(None, result.errlines)
    assert "ERROR: node n8 was lost: its agent ended with status 255" in line
    assert "it said: no route to n8" in line
    assert "Traceback" not in result.stdout.str()
    asked = (pytester.path / "asked").read_text().split()
    assert sorted(asked) == ["n8", "n9"]
