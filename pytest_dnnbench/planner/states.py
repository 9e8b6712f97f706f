"""States: the places where a model can be cut, with the sums of all that lies before each.

A state is a set of operators closed under ancestors; it stands for its last operators, an antichain
of the graph. A stage is the set of operators that one state has and an earlier state does not.
State 0 is empty, the last state has every operator, and each state comes after the states that it
contains: this is a topological order of PipeDream's antichain DAG (SOSP 2019, section 3.1, and the
optimizer of msr-fiddle/pipedream).

While there are few states, all of them count. Graphs with wide blocks (inception, nasnet) have more
than any plan needs: there each block keeps the states that do not cut inside an unbranched run, and
a block that still has too many keeps a single line of cuts, its operators in topological order.
Every state that is kept is a valid cut; only the choice of where to cut inside a branch gets
smaller.

Not here: the times of stages (corrected.py) and the searches (pipelines.py, outermost_level.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_dnnbench.planner.graph import Graph, planned_graph
from pytest_dnnbench.planner.profile import Profile

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MOST_STATES = 1000
"""Keeps the all-pairs tables of a plan within tens of megabytes and its search within seconds."""

MOST_STATES_PER_BLOCK = (128, 32, 8, 0)
"""Tried in turn until the whole graph has at most MOST_STATES. The last leaves one line of cuts per
block."""


@dataclass(frozen=True)
class States:
    """n states of a graph; index 0 is the empty one. Every array but `inside` has one entry per
    state.

    graph          the graph that is cut
    members        n sets of operators, as bits
    compute_s      forward and backward seconds of all operators in the state
    forward_s      the forward seconds of them
    activation_bytes, parameter_bytes    of all operators in the state
    output_bytes   the results that leave a stage that ends here: of the operators that feed
                   something outside the state, or make the model's output, and of the last
                   operators of the graph in it; and the model's inputs that are used outside it.
                   Each counts once, however many operators it feeds. Inputs count as results,
                   though of some no gradient returns.
    sent_bytes     the same without last operators that nobody needs: the bytes that cross the cut
    augmented_bytes    the figure that PipeDream's optimizer has in place of output_bytes (see
                   `_augmented`)
    inside         n x n, true at [a, b] where a is a proper part of b: (a, b) is a stage
    """

    graph: Graph
    members: tuple[int, ...]
    compute_s: Floats
    forward_s: Floats
    activation_bytes: Floats
    parameter_bytes: Floats
    output_bytes: Floats
    sent_bytes: Floats
    augmented_bytes: Floats
    inside: Flags

    def __len__(self) -> int:
        return len(self.members)

    def between(self, quantity: Floats) -> Floats:
        """n x n: the quantity of stage (a, b) at [a, b]; meaningless where `inside` is false."""
        return quantity[None, :] - quantity[:, None]

    def node_ids(self, start: int, end: int) -> tuple[str, ...]:
        """The operators of stage (start, end), in topological order."""
        added = self.members[end] & ~self.members[start]
        return tuple(operator for n in bits(added) for operator in self.graph.carried[n])


def states_of(profile: Profile) -> States:
    """The states of a profile. The same profile always gives the same states in the same order."""
    graph = planned_graph(profile)
    members = _all_states(graph, MOST_STATES) or _chosen_states(graph)
    return measured(graph, without_divided_groups(graph, members))


def without_divided_groups(graph: Graph, members: set[int]) -> set[int]:
    """The states that have all or none of each group of operators that run on one stage. Every
    stage between two of these has all or none of the group as well."""
    return {
        state for state in members if all(group & state in (0, group) for group in graph.together)
    }


def measured(graph: Graph, unordered: set[int]) -> States:
    """The States of these sets of operators, which include the empty set and the set of all."""
    members = sorted(unordered, key=lambda state: (state.bit_count(), state))
    table = _table(members, len(graph.operators))
    sizes = table.sum(axis=1)
    feeds = _table(
        [sum(1 << target for target in targets) for targets in graph.successors],
        len(graph.operators),
    )
    fed = feeds.sum(axis=1)
    feeds_outside = (table > 0) & (table @ feeds.T < fed)
    returned = _table([graph.returned], len(graph.operators)) > 0
    crossing = feeds_outside | (table > 0) & returned & (sizes < len(graph.operators))[:, None]
    inputs_bytes = _crossing_inputs(graph, table, sizes)
    activation_bytes = np.array([operator.activation_bytes for operator in graph.operators])
    return States(
        graph,
        tuple(members),
        table
        @ np.array([operator.forward_s + operator.backward_s for operator in graph.operators]),
        table @ np.array([operator.forward_s for operator in graph.operators]),
        table @ activation_bytes,
        table @ np.array([operator.parameter_bytes for operator in graph.operators]),
        (crossing | (table > 0) & (fed == 0)) @ activation_bytes + inputs_bytes,
        crossing @ activation_bytes + inputs_bytes,
        _augmented(graph, table, feeds) @ activation_bytes,
        (table @ table.T == sizes[:, None]) & (sizes[:, None] < sizes[None, :]),
    )


def _crossing_inputs(graph: Graph, table: Floats, sizes: Floats) -> Floats:
    """For each state: the bytes of the inputs that something outside uses. The first stage has all
    of them; nothing crosses a cut before it."""
    users = _table([users for _, users in graph.inputs], len(graph.operators))
    used_outside = (table @ users.T < users.sum(axis=1)) & (sizes > 0)[:, None]
    crossing: Floats = used_outside @ np.array([size for size, _ in graph.inputs], np.float64)
    return crossing


def _augmented(graph: Graph, table: Floats, feeds: Floats) -> Flags:
    """For each state: its last operators, and each ancestor of a last operator that also feeds
    something other than that operator and its ancestors.

    So an operator that feeds two open branches counts even when both begin inside the state:
    PipeDream counts more than crosses the cut.
    """
    count = len(graph.operators)
    ancestors = _table(list(graph.ancestors), count)
    last = (table > 0) & (table @ ancestors == 0)
    feeds_others = (ancestors > 0) & ((ancestors + np.eye(count)) @ feeds.T < feeds.sum(axis=1))
    extra: Flags = last.astype(np.float64) @ feeds_others > 0
    either: Flags = last | extra
    return either


def _table(sets: list[int], count: int) -> Floats:
    """One row per set, with 1.0 for each of `count` operators that is in it."""
    width = -(-count // 8)
    packed = np.frombuffer(
        b"".join(each.to_bytes(width, "little") for each in sets), dtype=np.uint8
    )
    bits = np.unpackbits(packed.reshape(len(sets), width), axis=1, count=count, bitorder="little")
    return bits.astype(np.float64)


def _all_states(graph: Graph, most: int) -> set[int]:
    """Every set of operators that has the ancestors of its operators; empty if there are more than
    `most` such sets."""
    return _grown(0, [[n] for n in range(len(graph.operators))], graph, most)


def _chosen_states(graph: Graph) -> set[int]:
    for most in MOST_STATES_PER_BLOCK:
        states = _states_by_block(graph, most)
        if len(states) <= MOST_STATES:
            break
    return states


def _states_by_block(graph: Graph, most: int) -> set[int]:
    """The states of each block between two narrow places, or a line of states where a block has
    more than `most`."""
    states, members = {0}, 0
    for block in _blocks(graph):
        runs = _runs(graph, block)
        states |= _grown(members, runs, graph, most) or _line(members, runs)
        members |= sum(1 << n for n in block)
    return states


def _blocks(graph: Graph) -> Iterator[list[int]]:
    """The operators between two narrow places and the second of the two, block by block."""
    members = 0
    for place in graph.narrow_places():
        yield list(bits((graph.ancestors[place] | 1 << place) & ~members))
        members |= graph.ancestors[place] | 1 << place
    rest = ~members & ((1 << len(graph.operators)) - 1)
    if rest:
        yield list(bits(rest))


def _runs(graph: Graph, block: list[int]) -> list[list[int]]:
    """The block's operators grouped into unbranched runs, in the order of each run's first
    operator."""
    run_of: dict[int, list[int]] = {}
    runs = []
    for n in block:
        before = graph.predecessors[n]
        unbranched = (
            len(before) == 1 and before[0] in run_of and len(graph.successors[before[0]]) == 1
        )
        if unbranched:
            run_of[n] = run_of[before[0]]
        else:
            run_of[n] = []
            runs.append(run_of[n])
        run_of[n].append(n)
    return runs


def _grown(start: int, runs: list[list[int]], graph: Graph, most: int) -> set[int]:
    """All states that adding whole runs to `start` can reach, each run after the operators that it
    needs; empty if there are more than `most`."""
    adds = [(graph.ancestors[run[0]] & ~start, sum(1 << n for n in run)) for run in runs]
    run_at = {run[0]: number for number, run in enumerate(runs)}
    after = [
        [run_at[n] for last in run for n in graph.successors[last] if n in run_at] for run in runs
    ]
    states = {start}
    waiting = [(start, [number for number, (needs, _) in enumerate(adds) if not needs])]
    while waiting:
        state, ready = waiting.pop()
        for number in ready:
            grown = state | adds[number][1]
            if grown in states:
                continue
            states.add(grown)
            if len(states) > most:
                return set()
            opened = [run for run in after[number] if not adds[run][0] & ~grown]
            waiting.append((grown, [other for other in ready if other != number] + opened))
    return states


def _line(members: int, runs: list[list[int]]) -> set[int]:
    """The states after each run, when the runs are added one after another."""
    states = set()
    for run in runs:
        members |= sum(1 << n for n in run)
        states.add(members)
    return states


def bits(members: int) -> tuple[int, ...]:
    """The positions of the operators in a set, ascending."""
    positions = []
    while members:
        lowest = members & -members
        positions.append(lowest.bit_length() - 1)
        members ^= lowest
    return tuple(positions)
