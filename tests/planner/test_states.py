"""States: all of them against an enumeration, and a valid choice of them where there are too
many."""

import pytest
from hypothesis import given

from benchmarks.planner_graphs import chain, dense, inception, nasnet, residual
from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner import states as states_module
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.states import MOST_STATES, States, states_of
from tests.planner.brute_force import BruteForce
from tests.planner.small_profiles import small_profiles


def cuts(states: States) -> list[frozenset[str]]:
    return [frozenset(states.node_ids(0, number)) for number in range(len(states))]


@given(small_profiles(ends=True))
def test_a_small_graph_has_every_state_with_its_sums(profile: Profile) -> None:
    states, force = states_of(profile), BruteForce(profile)
    assert len(cuts(states)) == len(force.cuts)
    assert set(cuts(states)) == set(force.cuts)
    for number, cut in enumerate(cuts(states)):
        assert states.compute_s[number] == pytest.approx(force.compute_s(cut))
        assert states.parameter_bytes[number] == force.total("parameter_bytes", cut)
        assert states.activation_bytes[number] == force.total("activation_bytes", cut)
        assert states.sent_bytes[number] == force.crossing(cut)
        assert states.augmented_bytes[number] == force.augmented(cut)


@given(small_profiles())
def test_a_state_comes_after_those_inside_it(profile: Profile) -> None:
    states = states_of(profile)
    for a, early in enumerate(cuts(states)):
        for b, late in enumerate(cuts(states)):
            assert bool(states.inside[a, b]) == (early < late)
            assert not states.inside[a, b] or a < b


@given(small_profiles())
def test_a_stage_has_what_its_operators_add(profile: Profile) -> None:
    states, force = states_of(profile), BruteForce(profile)
    seconds, size = states.between(states.compute_s), states.between(states.parameter_bytes)
    for a, early in enumerate(cuts(states)):
        for b, late in enumerate(cuts(states)):
            if states.inside[a, b]:
                stage = frozenset(states.node_ids(a, b))
                assert stage == late - early
                assert seconds[a, b] == pytest.approx(force.compute_s(stage))
                assert size[a, b] == force.total("parameter_bytes", stage)


BIG = {"chain": chain(1200), "inception": inception(), "nasnet": nasnet(), "residual": residual(80)}


@pytest.mark.parametrize("name", BIG)
def test_a_graph_with_too_many_states_keeps_cuts_that_are_valid_and_few(name: str) -> None:
    profile = BIG[name]
    states = states_of(profile)
    assert MOST_STATES / 10 < len(states) <= max(MOST_STATES, len(profile.operators) + 1)
    for members in states.members:
        for n, needs in enumerate(states.graph.ancestors):
            assert not members >> n & 1 or needs & ~members == 0
    assert states.members[0] == 0
    assert states.members[-1].bit_count() == len(profile.operators)


def test_few_states_are_all_kept() -> None:
    assert len(states_of(chain(400))) == 401
    assert len(states_of(dense())) == len(dense().operators) + 1, (
        "a densely connected model is a chain of states"
    )


def test_compression_cuts_a_block_of_branches_between_whole_branches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = inception(2)
    every = set(cuts(states_of(profile)))
    monkeypatch.setattr(states_module, "MOST_STATES", 100)
    chosen = cuts(states_of(profile))
    assert len(chosen) <= 100 < len(every)
    assert set(chosen) < every
    concatenations = [
        operator.id for operator in profile.operators if operator.description == "concat"
    ]
    for name in concatenations:
        done = BruteForce(profile).before(name) | {name}
        assert done in chosen, "the narrow place after each block stays a cut"


def test_a_profile_of_inputs_only_is_refused() -> None:
    with pytest.raises(ProfileError, match="inputs and unpacked outputs only"):
        states_of(Profile((Operator("image", "Input", 1, 0, 1, 0),), ()))
