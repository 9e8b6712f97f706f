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
"""Of one operator: 30 years, an exabyte. With these bounds no sum and no quotient of a plan
overflows."""


_MOST_OF_A_HALF = 100.0
"""Of a whole backward pass: above it, the times mean nothing."""

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
                f"operator id {shortened(repr(self.id))} is empty, or holds white space or"
                " characters that cannot be printed: give the operator's name"
            )
        for quantity, most in LARGEST.items():
            value = getattr(self, quantity)
            if not 0 <= value <= most:
                raise ProfileError(
                    f"operator {shortened(self.id)}: {quantity} is {value}, not finite and >= 0, or"
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
    """A directed acyclic graph of operators, in the order they run, and the conditions of the
    measurement.

    `edges` are pairs (source id, target id). The order of `operators` decides wherever the graph
    leaves a choice, so the same profile always gives the same plan. `metadata` is plain JSON data:
    the profiler writes model, image_size, batch_size, precision, device, environment and whole_s
    (seconds of one forward and backward pass of the whole model). `together` has groups of ids that
    run on one stage: operators that use the same weight, or change a value of one another. `inputs`
    are the tensors that the model is given, `outputs` the ids of the operators that make what it
    returns; profiles in PipeDream's text have neither. Raises ProfileError for operators, edges and
    groups that are no such graph.
    """

    operators: tuple[Operator, ...]
    edges: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()
    inputs: tuple[ModelInput, ...] = ()
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", tuple(self.operators))
        object.__setattr__(self, "edges", tuple((source, target) for source, target in self.edges))
        self._check_operators()
        self._check_edges()
        self._check_together()
        self._check_ends()
        self.in_topological_order()

    def _check_operators(self) -> None:
        if not self.operators:
            raise ProfileError(
                "the profile has no operators: profile a model with at least one operator"
            )
        ids: set[str] = set()
        for operator in self.operators:
            if operator.id in ids:
                raise ProfileError(
                    f"operator {shortened(operator.id)} appears twice: give every operator an id"
                    " of its own"
                )
            ids.add(operator.id)

    def _check_edges(self) -> None:
        ids = {operator.id for operator in self.operators}
        checked: set[tuple[str, str]] = set()
        for edge in self.edges:
            for end in edge:
                if end not in ids:
                    raise ProfileError(
                        f"edge {shortened(' -- '.join(edge))}: there is no operator"
                        f" {shortened(end)}; list every operator"
                    )
            if edge in checked:
                raise ProfileError(f"edge {shortened(' -- '.join(edge))} appears twice: remove one")
            checked.add(edge)

    def _check_together(self) -> None:
        object.__setattr__(self, "together", tuple(tuple(group) for group in self.together))
        ids = {operator.id for operator in self.operators}
        for group in self.together:
            unknown = next((end for end in group if end not in ids), None)
            if unknown is not None:
                raise ProfileError(
                    f"operators that stay together: there is no operator {shortened(unknown)};"
                    " list every operator"
                )

    def _check_ends(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        ids = {operator.id for operator in self.operators}
        named = [*self.outputs, *(user for each in self.inputs for user in each.users)]
        unknown = next((end for end in named if end not in ids), None)
        if unknown is not None:
            raise ProfileError(
                f"inputs and outputs: there is no operator {shortened(unknown)}; list every"
                " operator"
            )

    def in_topological_order(self) -> tuple[Operator, ...]:
        """The operators, each after its predecessors. Where several could come next, the first in
        `operators` does."""
        position = {operator.id: index for index, operator in enumerate(self.operators)}
        waits_for = [0] * len(self.operators)
        successors: list[list[int]] = [[] for _ in self.operators]
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
        if len(order) < len(self.operators):
            stuck = next(self.operators[index].id for index, count in enumerate(waits_for) if count)
            raise ProfileError(
                f"operator {shortened(stuck)} waits for a cycle of edges: a model runs forward only"
            )
        return tuple(self.operators[index] for index in order)

    def pieces(self) -> tuple[tuple[str, ...], ...]:
        """The ids of the operators in groups that no edge connects, the largest first; one group in
        the profile of a whole model."""
        neighbours: dict[str, list[str]] = {operator.id: [] for operator in self.operators}
        for source, target in self.edges:
            neighbours[source].append(target)
            neighbours[target].append(source)
        pieces: list[tuple[str, ...]] = []
        left = dict.fromkeys(neighbours)
        while left:
            waiting = [next(iter(left))]
            piece: dict[str, None] = {}
            while waiting:
                operator = waiting.pop()
                if operator not in piece:
                    piece[operator] = None
                    waiting += neighbours[operator]
            left = {operator: None for operator in left if operator not in piece}
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
        """Forward and backward seconds of all operators together, to compare with the time of the
        whole model."""
        return math.fsum(operator.forward_s + operator.backward_s for operator in self.operators)

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


def number_in(profile: Profile, key: str) -> float:
    """A number of the profile's metadata, at least 0; 0 where it has none."""
    value = profile.metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e18:
        return 0.0
    return float(value)


def halves_in(profile: Profile) -> tuple[float, float]:
    """What a backward pass in two takes, over a whole one, by the profile's metadata; two halves
    where it does not say."""
    value = profile.metadata.get("halves")
    if isinstance(value, list | tuple) and len(value) == 2:
        first, second = value
        if all(isinstance(each, float) and 0 <= each <= _MOST_OF_A_HALF for each in value):
            return first, second
    return 0.5, 0.5
