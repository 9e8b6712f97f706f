"""Random small profiles for tests against brute force: few operators, few different figures, so
that ties occur."""

from hypothesis import strategies as st

from pytest_dnnbench.planner.levels import Level
from pytest_dnnbench.planner.profile import ModelInput, Operator, Profile


@st.composite
def small_profiles(
    draw: st.DrawFn, most_nodes: int = 5, together: bool = False, ends: bool = False
) -> Profile:
    """Acyclic graphs of every shape, with several sources and sinks, unconnected parts and
    operators without time; the last has some. With `together`, two operators may have to stay
    together; with `ends`, the model has inputs of a size and outputs."""
    count = draw(st.integers(1, most_nodes))
    operators = [
        Operator(
            f"n{number}",
            "Conv2d",
            draw(st.integers(int(number == count - 1), 6)) / 8,
            draw(st.integers(0, 6)) / 8,
            draw(st.integers(0, 8)),
            draw(st.integers(0, 8)),
        )
        for number in range(count)
    ]
    pairs = [(a, b) for b in range(count) for a in range(b)]
    kept = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    edges = [(f"n{a}", f"n{b}") for (a, b), keep in zip(pairs, kept, strict=True) if keep]
    pair = st.sets(st.sampled_from([operator.id for operator in operators]), max_size=2)
    groups = (tuple(sorted(draw(pair))),) if together else ()
    some = st.sets(st.sampled_from([operator.id for operator in operators]))
    inputs = [
        ModelInput(f"i{number}", draw(st.integers(0, 8)), tuple(sorted(draw(some))))
        for number in range(2 * ends)
    ]
    outputs = tuple(sorted(draw(some))) if ends else ()
    kept_groups = tuple(group for group in groups if group)
    return Profile(tuple(operators), tuple(edges), {}, kept_groups, tuple(inputs), outputs)


bandwidths = st.sampled_from([0.7, 3.0, 10.0, 64.0, 1e6])


@st.composite
def hierarchies(draw: st.DrawFn, shapes: tuple[tuple[int, ...], ...]) -> tuple[Level, ...]:
    """Levels of one of the shapes, innermost first, with any bandwidths."""
    return tuple(Level(count, draw(bandwidths)) for count in draw(st.sampled_from(shapes)))
