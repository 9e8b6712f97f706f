"""Plans against brute force over all plans of small graphs, and what a plan promises about
itself."""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.planner_graphs import chain, dense, inception, nasnet, residual
from pytest_dnnbench.errors import PlanError, ProfileError
from pytest_dnnbench.planner.corrected import LevelCosts, gpu
from pytest_dnnbench.planner.inner_levels import SearchedLevel
from pytest_dnnbench.planner.levels import Level
from pytest_dnnbench.planner.pipedream.cost_model import OriginalOptions, best_stages, stages_s
from pytest_dnnbench.planner.pipedream.planning import original_plan
from pytest_dnnbench.planner.pipedream.states import original_states_of
from pytest_dnnbench.planner.pipedream.text import parse_text
from pytest_dnnbench.planner.plan import Plan, parse_plan, read_plan
from pytest_dnnbench.planner.predict import even_plan, plan_for
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.states import states_of
from tests.planner.brute_force import BruteForce
from tests.planner.idle_workers import workers_may_idle
from tests.planner.small_profiles import hierarchies, small_profiles

ONE_LEVEL = ((1,), (2,), (3,), (4,))
TWO_LEVELS = ((2, 2), (3, 2), (1, 2), (2, 1), (2, 3))
HUNDREDS = settings(
    max_examples=200, deadline=None
)  # no deadline: the first example imports and compiles
FEWER = settings(max_examples=60, deadline=None)  # the same, for brute force over two levels


def planned(
    profile: Profile,
    levels: tuple[Level, ...],
    planning: Callable[..., Plan] = plan_for,
    **options: object,
) -> Plan:
    workers, bandwidths = [level.workers for level in levels], [level.bandwidth for level in levels]
    return planning(profile, workers, bandwidths, **options)


def bottleneck_s(plan: Plan) -> float:
    return math.inf if plan.bottleneck_s is None else plan.bottleneck_s


def agrees(left: float, right: float) -> bool:
    return left == right or math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-15)


def in_a_row(levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """All workers side by side; each has its share of the link of every unit that it is in."""
    counts = [level.workers for level in levels]
    shares = [level.bandwidth / math.prod(counts[:depth]) for depth, level in enumerate(levels)]
    return (Level(math.prod(counts), min(shares)),)


def best_s(brute: BruteForce, levels: tuple[Level, ...]) -> float:
    """The least time of both families that the default search has."""
    return min(brute.least_s(levels), brute.least_s(in_a_row(levels)))


@HUNDREDS
@given(small_profiles(together=True), hierarchies(ONE_LEVEL), st.booleans(), st.booleans())
def test_the_default_model_finds_the_best_of_all_plans(
    profile: Profile, levels: tuple[Level, ...], free: bool, replication: bool
) -> None:
    plan = planned(
        profile, levels, replication=replication, activation_compression=None if free else 1.0
    )
    assert agrees(bottleneck_s(plan), BruteForce(profile, free, replication).least_s(levels))


@FEWER
@given(small_profiles(4, together=True), hierarchies(TWO_LEVELS), st.booleans(), st.booleans())
def test_the_default_model_finds_the_best_of_all_plans_for_nodes_of_gpus(
    profile: Profile, levels: tuple[Level, ...], free: bool, replication: bool
) -> None:
    plan = planned(
        profile, levels, replication=replication, activation_compression=None if free else 1.0
    )
    assert agrees(bottleneck_s(plan), best_s(BruteForce(profile, free, replication), levels))


@settings(max_examples=15, deadline=None)  # three levels of brute force
@given(small_profiles(3), hierarchies(((2, 2, 2), (1, 2, 2))))
def test_the_default_model_finds_the_best_of_all_plans_for_racks(
    profile: Profile, levels: tuple[Level, ...]
) -> None:
    assert agrees(bottleneck_s(planned(profile, levels)), best_s(BruteForce(profile), levels))


@HUNDREDS
@given(small_profiles(), hierarchies(ONE_LEVEL), st.integers(1, 90), st.booleans())
def test_a_memory_limit_leaves_the_best_of_the_plans_that_fit(
    profile: Profile, levels: tuple[Level, ...], memory_bytes: int, replication: bool
) -> None:
    plan = planned(profile, levels, memory_bytes=memory_bytes, replication=replication)
    expected = BruteForce(profile, False, replication, memory_bytes).least_s(levels)
    assert agrees(bottleneck_s(plan), expected)
    assert all(stage.memory_bytes <= memory_bytes for stage in plan.stages)


@FEWER
@given(small_profiles(4), hierarchies(TWO_LEVELS), st.integers(1, 60))
def test_for_nodes_of_gpus_a_plan_fits_its_memory_and_is_missing_only_if_none_fits(
    profile: Profile, levels: tuple[Level, ...], memory_bytes: int
) -> None:
    plan = planned(profile, levels, memory_bytes=memory_bytes)
    row = BruteForce(profile, memory_bytes=memory_bytes).least_s(in_a_row(levels))
    assert bool(plan.stages) == math.isfinite(row)
    assert bottleneck_s(plan) <= row * (1 + 1e-9)
    assert all(stage.memory_bytes <= memory_bytes for stage in plan.stages)
    assert bottleneck_s(plan) >= bottleneck_s(planned(profile, levels)) * (1 - 1e-9)


@HUNDREDS
@given(
    small_profiles(),
    hierarchies(ONE_LEVEL),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 60),
)
def test_the_original_model_finds_the_best_of_all_plans(
    profile: Profile,
    levels: tuple[Level, ...],
    free: bool,
    replication: bool,
    memory_bytes: int | None,
) -> None:
    options = {
        "activation_compression": None if free else 1.0,
        "replication": replication,
        "memory_bytes": memory_bytes,
    }
    if len(profile.pieces()) > 1:
        with pytest.raises(
            PlanError, match="several pieces, of which the original plans the first"
        ):
            planned(profile, levels, original_plan, **options)
        return
    plan = planned(profile, levels, original_plan, **options)
    assert agrees(
        bottleneck_s(plan), BruteForce(profile, free, replication, memory_bytes).original_s(levels)
    )


@FEWER
@given(small_profiles(), hierarchies(ONE_LEVEL))
def test_the_original_model_can_leave_workers_idle(
    profile: Profile, levels: tuple[Level, ...]
) -> None:
    assume(len(profile.pieces()) == 1)
    states = original_states_of(profile)
    with workers_may_idle():
        stages = best_stages(states, levels, OriginalOptions())
    assert agrees(
        stages_s(states, stages, levels, 1.0),
        BruteForce(profile).original_s(levels, all_used=False),
    )


@FEWER
@given(small_profiles(4), hierarchies(TWO_LEVELS), st.booleans())
def test_the_original_model_finds_the_best_of_all_plans_for_nodes_of_gpus(
    profile: Profile, levels: tuple[Level, ...], free: bool
) -> None:
    assume(len(profile.pieces()) == 1)
    plan = None
    with suppress(PlanError):  # impossible stages, of which the next test is
        plan = planned(profile, levels, original_plan, activation_compression=None if free else 1.0)
    assume(plan is not None)
    assert plan is not None
    assert agrees(bottleneck_s(plan), BruteForce(profile, free).original_s(levels))


@HUNDREDS
@given(small_profiles(), hierarchies((*ONE_LEVEL[1:], *TWO_LEVELS)), st.booleans())
def test_the_plan_of_the_original_model_is_never_better_by_the_default_one(
    profile: Profile, levels: tuple[Level, ...], free: bool
) -> None:
    """Its stages are costed by the formulas as they are written down, all workers in a row."""
    assume(len(profile.pieces()) == 1)
    compression = None if free else 1.0
    theirs = None
    with suppress(PlanError):  # impossible stages
        theirs = planned(profile, levels, original_plan, activation_compression=compression)
    assume(theirs is not None and theirs.stages)
    assert theirs is not None
    ours = planned(profile, levels, activation_compression=compression)
    force, row = BruteForce(profile, free), in_a_row(levels)
    cuts = [frozenset[str]()]
    for stage in theirs.stages:
        cuts.append(cuts[-1] | {*stage.operators})
    times = [
        force.stage_s(before, after, replicas, row)
        for (before, after), replicas in zip(pairwise(cuts), theirs.replicas, strict=True)
    ]
    if not free:
        times += [
            2 * force.crossing(cut) / row[0].bandwidth / min(pair)
            for cut, pair in zip(cuts[1:], pairwise(theirs.replicas), strict=False)
        ]
    assert bottleneck_s(ours) <= max(times) * (1 + 1e-9)


@HUNDREDS
@given(
    small_profiles(together=True),
    st.sampled_from([(1,), (2,), (2, 1), (1, 2), (1, 1, 1), (1, 3, 1)]),
    st.integers(1, 90),
)
def test_a_forced_shape_has_the_best_cuts_of_that_shape(
    profile: Profile, shape: tuple[int, ...], memory_bytes: int
) -> None:
    force = BruteForce(profile, memory_bytes=memory_bytes)
    level = Level(sum(shape), 3.0)
    chains = [
        way
        for way in force.chains(force.cuts[0], force.cuts[-1], len(shape))
        if len(way) == len(shape) + 1
    ]
    if not chains:
        with pytest.raises(PlanError, match=f"{len(shape)} stages, but the model can be cut into"):
            even_plan(profile, shape, bandwidth=3.0, memory_bytes=memory_bytes)
        return
    times = [math.inf]
    for way in chains:
        stages = [
            force.stage_s(a, b, r, [level]) for a, b, r in zip(way, way[1:], shape, strict=False)
        ]
        cuts = [
            2 * force.crossing(c) / 3.0 / min(pair)
            for c, *pair in zip(way[1:], shape, shape[1:], strict=False)
        ]
        if force.needed_bytes(way, shape) <= memory_bytes:
            times.append(max(stages + cuts))
    plan = even_plan(profile, shape, bandwidth=3.0, memory_bytes=memory_bytes)
    assert agrees(bottleneck_s(plan), min(times))
    assert not plan.stages or plan.replicas == shape


@FEWER
@given(small_profiles(), hierarchies(ONE_LEVEL), st.integers(1, 30))
def test_the_reason_why_nothing_fits_names_a_memory_that_suffices(
    profile: Profile, levels: tuple[Level, ...], memory_bytes: int
) -> None:
    plan = planned(profile, levels, memory_bytes=memory_bytes)
    if plan.stages:
        return
    with pytest.raises(PlanError, match="give more memory"):
        plan.require_feasible()
    least = float(plan.reason.split("leanest needs ")[1].split(";")[0])
    assert least > memory_bytes
    assert planned(profile, levels, memory_bytes=least).stages
    assert not planned(profile, levels, memory_bytes=least - 1).stages


GRAPHS = [chain(30), residual(8), dense((3, 4)), inception(4), nasnet(3)]
NAMES = ["chain", "residual", "dense", "inception", "nasnet"]


@pytest.mark.parametrize("profile", GRAPHS, ids=NAMES)
@pytest.mark.parametrize("planning", [plan_for, original_plan])
def test_stages_hold_every_node_once_and_no_node_before_one_it_needs(
    profile: Profile, planning: Callable[..., Plan]
) -> None:
    if planning is original_plan and profile in GRAPHS[3:]:
        with pytest.raises(PlanError, match="more than 1000 states, too many to search all"):
            planning(profile, (2, 2), (1e10, 1e9))
        return
    plan = planning(profile, (2, 2), (1e10, 1e9))
    stage_of = {
        name: number for number, stage in enumerate(plan.stages) for name in stage.operators
    }
    assert sorted(name for stage in plan.stages for name in stage.operators) == sorted(
        operator.id for operator in profile.operators
    )
    assert all(stage_of[source] <= stage_of[target] for source, target in profile.edges)
    assert math.isclose(sum(stage.compute_s for stage in plan.stages), profile.parts_s)


@pytest.mark.parametrize("profile", GRAPHS, ids=NAMES)
def test_the_order_of_edges_in_a_profile_does_not_matter(profile: Profile) -> None:
    turned = replace(profile, edges=tuple(reversed(profile.edges)))
    assert plan_for(profile, (4,), (1e8,)) == plan_for(turned, (4,), (1e8,))


@pytest.mark.parametrize("profile", GRAPHS, ids=NAMES)
def test_more_workers_are_never_slower(profile: Profile) -> None:
    times = [bottleneck_s(plan_for(profile, (workers,), (1e9,))) for workers in range(1, 8)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("profile", GRAPHS, ids=NAMES)
@pytest.mark.parametrize("bandwidth", [1e7, 1e9, 1e11])
def test_the_outermost_search_agrees_with_the_one_for_levels_inside(
    profile: Profile, bandwidth: float
) -> None:
    states = states_of(profile)
    level = Level(11, bandwidth)
    unit = SearchedLevel(LevelCosts(states, gpu(states), level, 1.0, True), None).as_unit()
    assert agrees(bottleneck_s(planned(profile, (level,))), unit.pipeline_s[0, -1])


def test_inputs_and_unpacked_outputs_run_beside_their_neighbours() -> None:
    operators = [
        Operator("image", "Input", 5.0, 0.0, 10, 0),
        Operator("first", "Conv2d", 1.0, 1.0, 10, 4),
        Operator("second", "Conv2d", 1.0, 1.0, 10, 4),
        Operator("unpacked", "__getitem__(0)", 9.0, 9.0, 10, 0),
    ]
    profile = Profile(
        tuple(operators), (("image", "first"), ("first", "second"), ("second", "unpacked"))
    )
    plan = even_plan(profile, (1, 1))
    assert [stage.operators for stage in plan.stages] == [
        ("image", "first"),
        ("second", "unpacked"),
    ]
    assert (plan.single_s, plan.bottleneck_s) == (4.0, 2.0)


def test_a_plan_survives_json() -> None:
    plan = plan_for(residual(4), (4,), (1e9,))
    assert parse_plan(plan.to_json()) == plan
    nothing = plan_for(residual(4), (4,), (1e9,), memory_bytes=1.0)
    assert parse_plan(nothing.to_json()) == nothing


def test_a_malformed_plan_is_refused_with_its_file_and_the_place(tmp_path: Path) -> None:
    text = plan_for(residual(4), (4,), (1e9,)).to_json()
    first = plan_for(residual(4), (4,), (1e9,)).stages[0].operators[0]
    for content, message in (
        (text.replace('"schema": 1', '"schema": 7'), "schema is 7, this version reads 1"),
        ('{"schema": 1, "stages": []}', "not a plan: .*missing required field"),
        (
            text.replace('"operators": [', '"operators": [3,', 1),
            r"`\$\.stages\[0\]\.operators\[0\]`",
        ),
        (text[:50], "not JSON"),
        (
            "[1]",
            r"the file holds no plan .the file holds a list.*write one with `dnnbench plan --json`",
        ),
        ("[" * 99999, "its brackets are nested too deep"),
        (f'{{"schema": {"9" * 5000}}}', "not JSON: Exceeds the limit"),
        (text.replace('"replicas": 4', '"replicas": -4'), "with -4 replicas"),
        (text.replace('"bottleneck_s": ', '"bottleneck_s": -'), "is negative or not finite"),
        (text.replace('"bottleneck_s": ', '"bottleneck_s": null, "x": '), "bottleneck_s. is null"),
        (text.replace(f'"{first}"', '"\\u001b[31m"'), "characters that cannot be printed"),
    ):
        path = tmp_path / "plan.json"
        path.write_text(content)
        with pytest.raises(PlanError, match=f"{re.escape(str(path))}: .*{message}"):
            read_plan(path)


def test_a_slow_link_and_heavy_weights_at_the_end_make_a_pipeline_and_a_fast_link_does_not() -> (
    None
):
    heavy_end = Profile(
        (
            Operator("convolutions", "Conv2d", 0.5, 1.0, 1e6, 1e6),
            Operator("linear", "Linear", 0.2, 0.3, 1e4, 5e8),
        ),
        (("convolutions", "linear"),),
    )
    slow, fast = plan_for(heavy_end, (4,), (1e8,)), plan_for(heavy_end, (4,), (1e12,))
    assert (slow.shape, slow.is_data_parallel, slow.bottleneck_s) == ("3-1", False, 0.5)
    assert (fast.shape, fast.is_data_parallel, fast.bottleneck_s) == ("4", True, 0.5)
    assert math.isclose(slow.data_parallel_s, 1.5 * (1e6 + 5e8) / 1e8 / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "bandwidths of 0 levels, and workers of 0"),
        (((4, 2), (1e9,)), r"bandwidths of 1 levels, and workers of 2 \(4x2\)"),
        (((0,), (1e9,)), "a level of 0 workers"),
        (((2,), (0.0,)), "bandwidth 0.0"),
        (((2,), (math.nan,)), "bandwidth nan"),
    ],
)
def test_workers_that_cannot_be_are_refused(
    arguments: tuple[tuple[int, ...], tuple[float, ...]], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_for(chain(3), *arguments)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(PlanError, match="memory -1"):
        plan_for(chain(3), (2,), (1e9,), memory_bytes=-1)
    with pytest.raises(PlanError, match="compression 0"):
        even_plan(chain(3), (1, 1), activation_compression=0)
    with pytest.raises(PlanError, match=r"replicas are \[1, 0\]"):
        even_plan(chain(3), (1, 0))
    with pytest.raises(PlanError, match="4 stages, but the model can be cut into 3"):
        even_plan(chain(3), (1, 1, 1, 1))


def test_a_binding_memory_limit_for_too_many_workers_says_so() -> None:
    with pytest.raises(PlanError, match="up to 128 only"):
        plan_for(chain(12), (4096,), (1e9,), memory_bytes=1e6)


def test_the_original_model_says_when_it_cannot_put_every_worker_to_use() -> None:
    plan = original_plan(chain(3), (4,), (1e9,), replication=False)
    assert not plan.stages
    assert "all 4 workers" in plan.reason
    assert plan_for(chain(3), (4,), (1e9,), replication=False).replicas == (1, 1, 1)


@pytest.mark.parametrize("planning", [plan_for, original_plan])
def test_a_profile_in_which_nothing_takes_time_is_refused(planning: Callable[..., Plan]) -> None:
    idle = Profile(
        (Operator("a", "View", 0, 0, 0, 0), Operator("b", "View", 0, 0, 0, 0)), (("a", "b"),)
    )
    with pytest.raises(
        ProfileError, match="none of the 2 operators takes any time: profile the model"
    ):
        planning(idle, (2,), (1e9,))
    with pytest.raises(ProfileError, match="none of the 2 operators takes any time"):
        even_plan(idle, (1, 1))


@pytest.mark.parametrize(
    ("edges", "remark"),
    [
        (3, "no edge connects 1 of the 5 operators to the others (n4 is one)"),
        (1, "no edge connects 3 of the 5 operators to the others (n2 is one)"),
        (4, ""),
    ],
)
def test_a_profile_cut_off_among_its_edges_is_planned_with_a_remark(
    edges: int, remark: str
) -> None:
    whole = chain(5)
    names = {operator.id: f"n{number}" for number, operator in enumerate(whole.operators)}
    profile = Profile(
        tuple(replace(operator, id=names[operator.id]) for operator in whole.operators),
        tuple((names[a], names[b]) for a, b in whole.edges[:edges]),
    )
    for plan in (plan_for(profile, (2,), (1e9,)), even_plan(profile, (1, 1))):
        assert len(plan.remarks) == bool(remark)
        assert remark in "".join(plan.remarks)
        assert parse_plan(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("device", "whole_s", "remark"),
    [
        ("cuda", 1.0, "2.00 times as long as the whole model: its kernels are short"),
        ("cpu", 1.0, "2.00 times as long as the whole model: its operators are short"),
        ("cpu", 4.0, "0.50 times as long as the whole model: the machine was busy, or the model"),
        ("cpu", 2.1, ""),
        ("cpu", 0, ""),
        ("cpu", "much", ""),
    ],
)
def test_parts_that_do_not_add_up_to_the_whole_are_told_beside_the_plan(
    device: str, whole_s: object, remark: str
) -> None:
    operators = (Operator("a", "Linear", 0.5, 0.5, 1, 1), Operator("b", "Linear", 0.5, 0.5, 1, 1))
    plan = plan_for(
        Profile(operators, (("a", "b"),), {"device": device, "whole_s": whole_s}), (2,), (1e9,)
    )
    assert len(plan.remarks) == bool(remark)
    assert remark in "".join(plan.remarks)


def line(number: int, description: str, forward_ms: int, backward_ms: int, size: int) -> str:
    """A node in PipeDream's text."""
    return (
        f"node{number} -- {description} -- forward_compute_time={forward_ms},"
        f" backward_compute_time={backward_ms}, activation_size=8, parameter_size={size}\n"
    )


TWO_CHAINS = (
    line(1, "Input0", 0, 0, 0)
    + line(2, "Input1", 0, 0, 0)
    + line(7, "B0", 9, 1, 8_000_000)
    + line(3, "A0", 2, 2, 8_000_000)
    + line(4, "A1", 1, 3, 8_000_000)
    + line(5, "A2", 5, 4, 8_000_000)
    + line(6, "join", 1, 1, 8_000_000)
    + "".join(
        f"\tnode{a} -- node{b}\n" for a, b in ((1, 3), (2, 7), (3, 4), (4, 5), (5, 6), (7, 6))
    )
)


@pytest.mark.parametrize(
    ("first", "workers", "its_bottleneck_s"),
    [
        *(("node7", 2, 0.019), ("node7", 3, 0.019), ("node7", 4, 0.019)),
        *(("node3", 2, 0.017), ("node3", 3, 0.012), ("node3", 4, 0.012)),
    ],
)
def test_on_two_chains_of_inputs_the_original_begins_at_the_first_in_the_file(
    first: str, workers: int, its_bottleneck_s: float
) -> None:
    """The figures are those of PipeDream's optimizer, unmodified, on this text."""
    lines = TWO_CHAINS.splitlines(keepends=True)
    lines.sort(key=lambda line: not line.startswith(f"{first} "))  # stable: this line goes first
    profile = parse_text("".join(lines))
    plan = original_plan(profile, (workers,), (1e9,), activation_compression=None)
    assert plan.bottleneck_s is not None
    assert math.isclose(plan.bottleneck_s, its_bottleneck_s, rel_tol=1e-9)


def test_the_original_model_is_refused_for_weights_that_nodes_share() -> None:
    profile = replace(chain(4), together=((chain(4).operators[0].id, chain(4).operators[2].id),))
    with pytest.raises(PlanError, match="knows nothing of operators that share a weight"):
        original_plan(profile, (2,), (1e9,))
    with pytest.raises(PlanError, match=r"into 2 at most .operators such as .* stay together"):
        even_plan(profile, (1, 1, 1))


def test_on_several_levels_the_original_is_refused_where_it_may_count_impossible_stages() -> None:
    """PipeDream's optimizer, unmodified, prints 0.008 s for this graph; its best plan takes 0.00807
    s."""
    figures = ((7, 1_000_000), (9, 1_000_000), (8, 0), (6, 40_000_000))
    lines = [line(n, "Op", ms, 0, size) for n, (ms, size) in enumerate(figures, start=1)]
    profile = parse_text("".join(lines) + "\tnode1 -- node2\n\tnode1 -- node3\n\tnode1 -- node4\n")
    with pytest.raises(PlanError, match=r"may print 0.008 s .* its best plan takes 0.00806667 s"):
        original_plan(profile, (2, 2), (3e10, 1e9), activation_compression=None)
