"""The Profile: a model's operator graph with the time and size of each node, as measured on one
device.

What lives here: the records Node and Profile and what makes them valid. Not here: the files they
are kept in (profile_file.py, pipedream_text.py), the measuring (the rank side does that) and the
states of the graph that a plan is made from (graph.py).
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_dnnbench.errors import ProfileError


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. Times are seconds per minibatch, sizes are bytes per minibatch (activation) or
    in all.

    `id` names the operator and is unique in its profile; it holds no white space.
    `activation_bytes` is the size of what the node hands to its successors. Sizes may be fractions,
    since PipeDream averages them.
    """

    id: str
    description: str
    forward_s: float
    backward_s: float
    activation_bytes: float
    parameter_bytes: float

    def __post_init__(self) -> None:
        if not self.id or any(character.isspace() for character in self.id):
            raise ProfileError(
                f"node id {self.id!r} is empty or holds white space: give the operator's name"
            )
        for quantity in ("forward_s", "backward_s", "activation_bytes", "parameter_bytes"):
            value = getattr(self, quantity)
            if not (math.isfinite(value) and value >= 0):
                raise ProfileError(f"node {self.id}: {quantity} is {value}, not finite and >= 0")


@dataclass(frozen=True, slots=True)
class Profile:
    """A directed acyclic graph of nodes, in the order they run, and what they were measured under.

    `edges` are pairs (source id, target id). The order of `nodes` decides wherever the graph leaves
    a choice, so the same profile always gives the same plan. `metadata` is plain JSON data; the
    profiler writes model, image_size, batch_size, precision, device, environment and whole_s
    (seconds of one forward and backward pass of the whole model), and `require` compares the keys
    that it is asked about.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "edges", tuple((source, target) for source, target in self.edges))
        self._check_nodes()
        self._check_edges()
        self.in_topological_order()

    def _check_nodes(self) -> None:
        if not self.nodes:
            raise ProfileError(
                "the profile has no nodes: profile a model with at least one operator"
            )
        seen: set[str] = set()
        for node in self.nodes:
            if node.id in seen:
                raise ProfileError(
                    f"node {node.id} appears twice: give every node an id of its own"
                )
            seen.add(node.id)

    def _check_edges(self) -> None:
        known = {node.id for node in self.nodes}
        seen: set[tuple[str, str]] = set()
        for edge in self.edges:
            for end in edge:
                if end not in known:
                    raise ProfileError(
                        f"edge {' -- '.join(edge)}: there is no node {end}; list every node"
                    )
            if edge in seen:
                raise ProfileError(f"edge {' -- '.join(edge)} appears twice: remove one")
            seen.add(edge)

    def in_topological_order(self) -> tuple[Node, ...]:
        """The nodes, each after its predecessors; where several could come next, the first listed
        does."""
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
                f"node {stuck} waits for a cycle of edges: a model runs forward only"
            )
        return tuple(self.nodes[index] for index in order)

    @property
    def parts_s(self) -> float:
        """Forward and backward seconds of all nodes together: to be compared with the whole model's
        time."""
        return math.fsum(node.forward_s + node.backward_s for node in self.nodes)

    def require(self, **expected: Any) -> None:
        """Raises ProfileError unless the metadata says exactly this, for instance
        `model="resnet18"`."""
        for key, value in expected.items():
            found = self.metadata.get(key)
            if found != value:
                raise ProfileError(
                    f"the profile has {key} {found!r}, asked for {value!r}: profile it anew"
                )
