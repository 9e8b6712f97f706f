"""The operator graph that a plan cuts: which nodes count, who depends on whom, where it is narrow.

What lives here: sets of nodes as the bits of an integer (bit n stands for `nodes[n]`), ancestors
and descendants, and the narrow places. Not here: the cuts themselves (states.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner.profile import Operator, Profile

INPUT = "Input"
GET_ITEM = "__getitem__"


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; `predecessors[n]` and `successors[n]` are positions in `nodes`.

    `carried[n]` are the ids that run on the stage of node n: the node's, and those of nodes next to
    it that the graph leaves out. `together` has the sets of nodes, as bits, that run on one stage.
    `inputs` are the model's: the bytes of each, and the nodes that use it, as bits; `returned` are
    the nodes that make its output.
    """

    nodes: tuple[Operator, ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]
    carried: tuple[tuple[str, ...], ...]
    together: tuple[int, ...] = ()
    inputs: tuple[tuple[float, int], ...] = ()
    returned: int = 0

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """For each node, the set of all nodes before it, as bits."""
        sets: list[int] = []
        for sources in self.predecessors:
            sets.append(_union(sets[source] | 1 << source for source in sources))
        return tuple(sets)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """For each node, the set of all nodes after it, as bits."""
        sets = [0] * len(self.nodes)
        for position in reversed(range(len(self.nodes))):
            sets[position] = _union(
                sets[target] | 1 << target for target in self.successors[position]
            )
        return tuple(sets)

    def narrow_places(self) -> list[int]:
        """The nodes that are before or after every other node, in order: all data flow through
        each."""
        others = len(self.nodes) - 1
        return [
            position
            for position, (before, after) in enumerate(
                zip(self.ancestors, self.descendants, strict=True)
            )
            if before.bit_count() + after.bit_count() == others
        ]


def planned_graph(profile: Profile) -> Graph:
    """The graph of a profile without the model's inputs and its unpacked outputs, which no stage
    computes.

    As in PipeDream, these are sources whose description starts with `Input` and sinks whose
    description starts with `__getitem__`. They run with their first user, or with their last
    source. Raises ProfileError when no node is left.
    """
    has_predecessor = {target for _, target in profile.edges}
    has_successor = {source for source, _ in profile.edges}
    nodes = [
        node
        for node in profile.in_topological_order()
        if not (node.description.startswith(INPUT) and node.id not in has_predecessor)
        and not (node.description.startswith(GET_ITEM) and node.id not in has_successor)
    ]
    if not nodes:
        raise ProfileError(
            "the profile has inputs and unpacked outputs only: profile a model that computes"
        )
    position = {node.id: index for index, node in enumerate(nodes)}
    predecessors: list[list[int]] = [[] for _ in nodes]
    successors: list[list[int]] = [[] for _ in nodes]
    for source, target in profile.edges:
        if source in position and target in position:
            predecessors[position[target]].append(position[source])
            successors[position[source]].append(position[target])

    def bits_of(names: Iterable[str]) -> int:
        return _union(1 << position[name] for name in names if name in position)

    together = map(bits_of, profile.together)
    return Graph(
        tuple(nodes),
        _frozen(predecessors),
        _frozen(successors),
        _carried(profile, nodes, position),
        tuple(group for group in together if group),
        tuple((each.size_bytes, bits_of(each.users)) for each in profile.inputs),
        bits_of(profile.outputs),
    )


def _carried(
    profile: Profile, nodes: list[Operator], position: dict[str, int]
) -> tuple[tuple[str, ...], ...]:
    before: list[list[str]] = [[] for _ in nodes]
    after: list[list[str]] = [[] for _ in nodes]
    users_of: dict[str, list[int]] = {}
    sources_of: dict[str, list[int]] = {}
    for source, target in profile.edges:
        if target in position:
            users_of.setdefault(source, []).append(position[target])
        if source in position:
            sources_of.setdefault(target, []).append(position[source])
    for left_out in (node.id for node in profile.nodes if node.id not in position):
        users, sources = users_of.get(left_out, []), sources_of.get(left_out, [])
        if sources:
            after[max(sources)].append(left_out)
        else:
            before[min(users, default=0)].append(left_out)
    return tuple((*before[n], node.id, *after[n]) for n, node in enumerate(nodes))


def _union(sets: Iterable[int]) -> int:
    union = 0
    for each in sets:
        union |= each
    return union


def _frozen(lists: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted(each)) for each in lists)
