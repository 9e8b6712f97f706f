"""Operators whose sizes depend on values are found, and torch's schedules never cut them off."""

import pytest
import torch
from torch import nn

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph, trace
from pytest_dnnbench.rank.profiling.varying_sizes import (
    Group,
    _needs_no_values,
    check_sizes,
    of_varying_sizes,
)
from tests.profiling.branching_models import Concat, FollowsSizes, Routed


def grouped(model: nn.Module) -> tuple[OperatorGraph, tuple[Group, ...]]:
    torch.manual_seed(6)
    minibatches = [torch.randn(3, 1, 28, 28) for _ in range(3)]
    graph = trace(model, minibatches[0])
    return graph, of_varying_sizes(graph, minibatches)


def profiled(graph: OperatorGraph, groups: tuple[Group, ...]) -> Profile:
    """Every operator takes as long as another."""
    operators = tuple(Operator(name, name, 1.0, 1.0, 8, 8) for name in graph.operators)
    return Profile(operators, graph.edges, together=groups)


def test_rows_that_a_router_chooses_and_all_who_take_them_stay_together() -> None:
    _, groups = grouped(Routed())
    takers = {source: set(rest) for source, *rest in groups}
    assert takers["where"] == {"getitem_1", "getitem_2", "index_add"}
    assert (takers["getitem_1"], takers["experts_0"]) == ({"experts_0"}, {"mul"})
    assert takers["mul_3"] == {"index_add_3"}
    assert not {"gates_0", "gates_1", "add_1", "head"} & {
        name for group in groups for name in group
    }


def test_a_plan_cuts_between_layers_of_experts_and_not_inside_one() -> None:
    graph, groups = grouped(Routed())
    plan = even_plan(profiled(graph, groups), (1, 1)).require_feasible()
    check_sizes(plan, groups)
    for experts in (("experts_0", "experts_1"), ("experts_2", "experts_3")):
        assert len({n for n, s in enumerate(plan.stages) if {*experts} & {*s.operators}}) == 1


def test_a_plan_that_cuts_an_expert_off_is_refused_with_what_to_do() -> None:
    graph, groups = grouped(Routed())
    plan = even_plan(profiled(graph, ()), (1,) * 6).require_feasible()
    with pytest.raises(PlanError, match=r"depends on values: .*--dnn-stages .*pipedream"):
        check_sizes(plan, groups)


def test_sizes_that_follow_from_other_sizes_do_not_vary() -> None:
    for model in (Concat(), FollowsSizes()):
        _, groups = grouped(model)
        assert groups == ()


@pytest.mark.parametrize(
    ("model", "without_values"),
    [(Concat(), True), (FollowsSizes(), True), (Routed(), False)],
    ids=lambda each: type(each).__name__,
)
def test_only_a_model_whose_sizes_may_depend_on_values_runs_for_it(
    model: nn.Module, without_values: bool
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(3, 1, 28, 28)
    assert _needs_no_values(trace(model, images), images) == without_values
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
