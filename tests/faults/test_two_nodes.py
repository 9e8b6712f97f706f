"""The fault matrix's column for two nodes: each fault fails its case in time, names the rank and
the node, leaves nothing on either node, and the next launch runs over both again.

Each run of the tests checks a part of it, `make faults` all. The outcomes are in
docs/appendix/fault-matrix.md.
"""

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.nodes import NAMES, namespaces
from tests.faults import outcomes, two_nodes
from tests.faults.two_nodes import Nodes

PART = (
    ("SIGSTOP", "timed steps", "n2"),
    ("agent killed", "group", "n1"),
    ("engine's step ended", "timed steps", "n2"),
    ("fork server killed", "timed steps", "n1"),
    ("link down", "timed steps", "n2"),
)


@pytest.fixture(scope="module")
def enter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command that enters a node."""
    with namespaces(tmp_path_factory.mktemp("nodes")) as (command, _):
        yield command


@pytest.fixture(scope="module")
def nodes(enter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with two_nodes.two_nodes(enter, tmp_path_factory.mktemp("leases")) as made:
        yield made


def check(nodes: Nodes, enter: str, fault: str, rank_phase: str, node: str) -> None:
    planted = nodes.plant(fault, rank_phase, node)
    if fault == "link down":
        words = enter.format(node=node, index=NAMES.index(node)).split()
        subprocess.run([*words, "ip", "link", "set", "eth0", "up"], check=True)
    mistakes = two_nodes.wrong(fault, rank_phase, node, planted)
    left = nodes.left_behind()
    outcomes.note_two_nodes(
        fault, rank_phase, node, planted.error, planted.took_s, [*mistakes, *left]
    )
    assert not mistakes, f"{mistakes}\n{planted.error}"
    assert not left
    assert nodes.run({}).launch().throughput > 0, "the next case runs"


@pytest.mark.parametrize(("fault", "rank_phase", "node"), PART)
def test_a_fault_on_a_node_fails_its_case_by_name_and_leaves_nothing_on_any_node(
    nodes: Nodes, enter: str, fault: str, rank_phase: str, node: str
) -> None:
    check(nodes, enter, fault, rank_phase, node)


@pytest.mark.faults
@pytest.mark.parametrize(("fault", "rank_phase", "node"), two_nodes.COMBINATIONS)
def test_every_fault_of_a_rank_and_of_a_node(
    nodes: Nodes, enter: str, fault: str, rank_phase: str, node: str
) -> None:
    check(nodes, enter, fault, rank_phase, node)


def test_the_part_is_of_the_column() -> None:
    assert set(PART) <= set(two_nodes.COMBINATIONS)
