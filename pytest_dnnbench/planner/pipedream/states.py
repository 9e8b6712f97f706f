"""The states that PipeDream's published optimizer plans with.

Its antichain DAG begins at one source of the graph, the first in the profile's file, and moves on
to successors. So a state has, beside that source, only operators that it reached in this way, and
everything before them: a second chain of inputs (a translator has one for each language) is never
cut by itself. With one source these are all states of the graph. Source: msr-fiddle/pipedream,
graph/graph.py, `antichain_dag` and `next_antichains`.
"""

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.graph import Graph, planned_graph
from pytest_dnnbench.planner.pipedream.text import FILE_ORDER
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.states import MOST_STATES, States, bits, measured


def original_states_of(profile: Profile) -> States:
    """The states of the original's optimizer, and the empty one.

    Raises PlanError where its plan would be of less than the profile, or would differ from ours: a
    graph in several pieces, of which it plans one; one with more states than we keep; operators
    that share a weight, which it would part.
    """
    graph = planned_graph(profile)
    if graph.together:
        raise PlanError(
            "the original cost model knows nothing of operators that share a weight, and may part"
            " them: use the default cost model"
        )
    start = _first_source(graph, profile)
    members = {0, start}
    waiting = [start]
    while waiting:
        state = waiting.pop()
        for n in _successors(graph, state):
            grown = state | graph.ancestors[n] | 1 << n
            if grown not in members:
                members.add(grown)
                waiting.append(grown)
        if len(members) > MOST_STATES:
            raise PlanError(
                f"the graph has more than {MOST_STATES} states, too many to search all of them as"
                " the original does: use the default cost model"
            )
    if max(members, key=int.bit_count).bit_count() < len(graph.operators):
        raise PlanError(
            "the graph is in several pieces, of which the original plans the first only:"
            " use the default cost model"
        )
    return measured(graph, members)


def _first_source(graph: Graph, profile: Profile) -> int:
    """The state of the source that comes first in the profile's file."""
    order = profile.metadata.get(FILE_ORDER) or [operator.id for operator in graph.operators]
    rank = {name: number for number, name in enumerate(map(str, order))}
    sources = [n for n, before in enumerate(graph.predecessors) if not before]
    return 1 << min(sources, key=lambda n: rank.get(graph.operators[n].id, len(rank)))


def _successors(graph: Graph, state: int) -> set[int]:
    """The operators outside a state that an operator of the state feeds."""
    return {
        target for n in bits(state) for target in graph.successors[n] if not state >> target & 1
    }
