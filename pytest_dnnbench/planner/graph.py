"""The operator graph that a plan cuts: which operators count, who depends on whom, where it is
narrow.

What lives here: sets of operators as the bits of an integer (bit n stands for `operators[n]`),
ancestors and descendants, and the narrow places. Not here: the cuts themselves (states.py).
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
    """Operators in topological order; `predecessors[n]` and `successors[n]` are positions in
    `operators`.

    `carried[n]` are the ids that run on the stage of operator n: the operator's, and those of
    operators next to it that the graph leaves out. `together` has the sets of operators, as bits,
    that run on one stage. `inputs` are the model's: the bytes of each, and the operators that use
    it, as bits; `returned` are the operators that make its output.
    """

    operators: tuple[Operator, ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]
    carried: tuple[tuple[str, ...], ...]
    together: tuple[int, ...] = ()
    inputs: tuple[tuple[float, int], ...] = ()
    returned: int = 0

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """For each operator, the set of all operators before it, as bits."""
        sets: list[int] = []
        for sources in self.predecessors:
            sets.append(_union(sets[source] | 1 << source for source in sources))
        return tuple(sets)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """For each operator, the set of all operators after it, as bits."""
        sets = [0] * len(self.operators)
        for position in reversed(range(len(self.operators))):
            sets[position] = _union(
                sets[target] | 1 << target for target in self.successors[position]
            )
        return tuple(sets)

    def narrow_places(self) -> list[int]:
        """The operators that are before or after every other operator, in order: all data flow
        through each."""
        others = len(self.operators) - 1
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
    source. Raises ProfileError when no operator is left.
    """
    has_predecessor = {target for _, target in profile.edges}
    has_successor = {source for source, _ in profile.edges}
    operators = [
        operator
        for operator in profile.in_topological_order()
        if not (operator.description.startswith(INPUT) and operator.id not in has_predecessor)
        and not (operator.description.startswith(GET_ITEM) and operator.id not in has_successor)
    ]
    if not operators:
        raise ProfileError(
            "the profile has inputs and unpacked outputs only: profile a model that computes"
        )
    position = {operator.id: index for index, operator in enumerate(operators)}
    predecessors: list[list[int]] = [[] for _ in operators]
    successors: list[list[int]] = [[] for _ in operators]
    for source, target in profile.edges:
        if source in position and target in position:
            predecessors[position[target]].append(position[source])
            successors[position[source]].append(position[target])

    def bits_of(names: Iterable[str]) -> int:
        return _union(1 << position[name] for name in names if name in position)

    together = map(bits_of, profile.together)
    return Graph(
        tuple(operators),
        _frozen(predecessors),
        _frozen(successors),
        _carried(profile, operators, position),
        tuple(group for group in together if group),
        tuple((each.size_bytes, bits_of(each.users)) for each in profile.inputs),
        bits_of(profile.outputs),
    )


def _carried(
    profile: Profile, operators: list[Operator], position: dict[str, int]
) -> tuple[tuple[str, ...], ...]:
    before: list[list[str]] = [[] for _ in operators]
    after: list[list[str]] = [[] for _ in operators]
    users_of: dict[str, list[int]] = {}
    sources_of: dict[str, list[int]] = {}
    for source, target in profile.edges:
        if target in position:
            users_of.setdefault(source, []).append(position[target])
        if source in position:
            sources_of.setdefault(target, []).append(position[source])
    for left_out in (operator.id for operator in profile.operators if operator.id not in position):
        users, sources = users_of.get(left_out, []), sources_of.get(left_out, [])
        if sources:
            after[max(sources)].append(left_out)
        else:
            before[min(users, default=0)].append(left_out)
    return tuple((*before[n], operator.id, *after[n]) for n, operator in enumerate(operators))


def _union(sets: Iterable[int]) -> int:
    union = 0
    for each in sets:
        union |= each
    return union


def _frozen(lists: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted(each)) for each in lists)
