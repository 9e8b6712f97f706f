"""The Profile: a model's operator graph with the time and size of each operator on one device.

What lives here: the records Operator and Profile, and the checks that make them valid. Not here:
their files (profile_file.py, pipedream/text.py), the measurement (on the rank, rank/profiling) and
the graph that a plan cuts (graph.py).
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner.parsing import shortened

LARGEST = {
    "forward_s": 1e9,
    "backward_s": 1e9,
    "activation_bytes": 1e18,
    "parameter_bytes": 1e18,
}
"""Of one node: 30 years, an exabyte. With these bounds no sum and no quotient of a plan
overflows."""


MOMENT_S = 1e-12
"""A whole model cannot take less."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator. Times are seconds per minibatch.

    `id` names the operator, is unique in its profile and has no white space. `activation_bytes` is
    the size of the result for one minibatch, `parameter_bytes` that of the weights. Sizes may be
    fractions, since PipeDream averages them. Raises ProfileError for a time or size that is
    negative, not finite or beyond what any machine has, and for an id that cannot be printed.
    """

    id: str
    description: str
    forward_s: float
    backward_s: float
    activation_bytes: float
    parameter_bytes: float

    def __post_init__(self) -> None:
        if not self.id.isprintable() or " " in self.id or not self.id:
            raise ProfileError(
                f"node id {shortened(repr(self.id))} is empty, or holds white space or characters"
                " that cannot be printed: give the operator's name"
            )
        for quantity, most in LARGEST.items():
            value = getattr(self, quantity)
            if not 0 <= value <= most:
                raise ProfileError(
                    f"node {shortened(self.id)}: {quantity} is {value}, not finite and >= 0, or"
                    f" above {most:.0e}"
                )


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A tensor that the model is given: its bytes for one minibatch, and the ids of the operators
    that use it. The first stage of a pipeline hands it on to these. Raises ProfileError for a size
    that is negative, not finite or beyond what any machine has."""

    id: str
    size_bytes: float
    users: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= LARGEST["activation_bytes"]:
            raise ProfileError(
                f"input {shortened(self.id)}: size_bytes is {self.size_bytes}, not finite and >= 0,"
                f" or above {LARGEST['activation_bytes']:.0e}"
            )


@dataclass(frozen=True, slots=True)
class Profile:
    """A directed acyclic graph of nodes, in the order they run, and the conditions of the
    measurement.

    `edges` are pairs (source id, target id). The order of `nodes` decides wherever the graph leaves
    a choice, so the same profile always gives the same plan. `metadata` is plain JSON data: the
    profiler writes model, image_size, batch_size, precision, device, environment and whole_s
    (seconds of one forward and backward pass of the whole model). `together` has groups of ids that
    run on one stage: nodes that use the same weight, or change a value of one another. `inputs`
    are the tensors that the model is given, `outputs` the ids of the nodes that make what it
    returns; profiles in PipeDream's text have neither. Raises ProfileError for nodes, edges and
    groups that are no such graph.
    """

    nodes: tuple[Operator, ...]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()
    inputs: tuple[ModelInput, ...] = ()
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "edges", tuple((source, target) for source, target in self.edges))
        self._check_nodes()
        self._check_edges()
        self._check_together()
        self._check_ends()
        self.in_topological_order()

    def _check_nodes(self) -> None:
        if not self.nodes:
            raise ProfileError(
                "the profile has no nodes: profile a model with at least one operator"
            )
        ids: set[str] = set()
        for node in self.nodes:
            if node.id in ids:
                raise ProfileError(
                    f"node {shortened(node.id)} appears twice: give every node an id of its own"
                )
            ids.add(node.id)

    def _check_edges(self) -> None:
        ids = {node.id for node in self.nodes}
        checked: set[tuple[str, str]] = set()
        for edge in self.edges:
            for end in edge:
                if end not in ids:
                    raise ProfileError(
                        f"edge {shortened(' -- '.join(edge))}: there is no node"
                        f" {shortened(end)}; list every node"
                    )
            if edge in checked:
                raise ProfileError(f"edge {shortened(' -- '.join(edge))} appears twice: remove one")
            checked.add(edge)

    def _check_together(self) -> None:
        object.__setattr__(self, "together", tuple(tuple(group) for group in self.together))
        ids = {node.id for node in self.nodes}
        for group in self.together:
            unknown = next((end for end in group if end not in ids), None)
            if unknown is not None:
                raise ProfileError(
                    f"nodes that stay together: there is no node {shortened(unknown)};"
                    " list every node"
                )

    def _check_ends(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        ids = {node.id for node in self.nodes}
        named = [*self.outputs, *(user for each in self.inputs for user in each.users)]
        unknown = next((end for end in named if end not in ids), None)
        if unknown is not None:
            raise ProfileError(
                f"inputs and outputs: there is no node {shortened(unknown)}; list every node"
            )

    def in_topological_order(self) -> tuple[Operator, ...]:
        """The nodes, each after its predecessors. Where several could come next, the first in
        `nodes` does."""
        position = {node.id: index for index, node in enumerate(self.nodes)}
        waits_for = [0] * len(self.nodes)
        successors: list[list[int]] = [[] for _ in self.nodes]
        for source, target in self.edges:
            successors[position[source]].append(position[target])
            waits_for[position[target]] += 1
        ready = [index for index, count in enumerate(waits_for) if not count]
        order: list[int] = []
        while ready:
            order.append(heapq.heappop(ready))
            for successor in successors[order[-1]]:
                waits_for[successor] -= 1
                if not waits_for[successor]:
                    heapq.heappush(ready, successor)
        if len(order) < len(self.nodes):
            stuck = next(self.nodes[index].id for index, count in enumerate(waits_for) if count)
            raise ProfileError(
                f"node {shortened(stuck)} waits for a cycle of edges: a model runs forward only"
            )
        return tuple(self.nodes[index] for index in order)

    def pieces(self) -> tuple[tuple[str, ...], ...]:
        """The ids of the nodes in groups that no edge connects, the largest first; one group in the
        profile of a whole model."""
        neighbours: dict[str, list[str]] = {node.id: [] for node in self.nodes}
        for source, target in self.edges:
            neighbours[source].append(target)
            neighbours[target].append(source)
        pieces: list[tuple[str, ...]] = []
        left = dict.fromkeys(neighbours)
        while left:
            waiting = [next(iter(left))]
            piece: dict[str, None] = {}
            while waiting:
                node = waiting.pop()
                if node not in piece:
                    piece[node] = None
                    waiting += neighbours[node]
            left = {node: None for node in left if node not in piece}
            pieces.append(tuple(piece))
        return tuple(sorted(pieces, key=len, reverse=True))

    @property
    def parts_over_whole(self) -> float | None:
        """The sum of the operators' times over the time of the whole model, as measured: near 1 in
        a profile that can be trusted. None where the metadata does not have the whole."""
        measured = self.metadata.get("parts_over_whole")  # where the times were scaled since
        if isinstance(measured, float) and 0 < measured <= LARGEST["forward_s"]:
            return measured
        whole_s = self.metadata.get("whole_s")
        if isinstance(whole_s, bool) or not isinstance(whole_s, (int, float)):
            return None
        return self.parts_s / whole_s if MOMENT_S <= whole_s <= LARGEST["forward_s"] else None

    @property
    def parts_s(self) -> float:
        """Forward and backward seconds of all nodes together, to compare with the time of the whole
        model."""
        return math.fsum(node.forward_s + node.backward_s for node in self.nodes)

    def require(self, **expected: Any) -> None:
        """Raises ProfileError unless the metadata has exactly these values, for instance
        `batch_size=32`."""
        for key, value in expected.items():
            actual = self.metadata.get(key)
            if actual != value:
                raise ProfileError(
                    f"the profile has {key} {actual!r}, required is {value!r}: profile the model"
                    " again"
                )
