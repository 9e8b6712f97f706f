"""Stages of a cut model, composed, are the model: forward, gradients and running statistics, bit
for bit."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import pytest
import torch
from torch import nn

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.rank.pipeline.cut import Into, cut
from pytest_dnnbench.rank.pipeline.even_cuts import cut_points
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.profiling.weights import together
from pytest_dnnbench.rank.workloads.image_models import build_model
from pytest_dnnbench.rank.workloads.model_copy import copied
from tests.profiling.branching_models import (
    AssignsItems,
    Attending,
    Chunks,
    Concat,
    Constants,
    FollowsSizes,
    FollowsTypes,
    Locked,
    Overwriting,
    ReadsADtype,
    Regions,
    SharedMask,
    SqueezeExcite,
    Tied,
    UsedTwice,
)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: build_model("torchvision.models:resnet18", 28),
    "efficientnet_b0": lambda: build_model("torchvision.models:efficientnet_b0", 28),
    "concat": Concat,
    "squeeze-excite": SqueezeExcite,
    "chunks": Chunks,
    "overwriting": Overwriting,
    "attending": Attending,
    "constants": Constants,
    "reads-a-dtype": ReadsADtype,
    "follows-sizes": FollowsSizes,
    "shared-mask": SharedMask,
    "assigns-items": AssignsItems,
    "follows-types": FollowsTypes,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(3)
    return MODELS[request.param]().double()


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(3, 1, 28, 28, dtype=torch.float64)


def one_stage_per_operator(model: nn.Module, images: torch.Tensor) -> list[set[str]]:
    return [{name} for name in trace(model, images).operators]


def every_fifth(model: nn.Module, images: torch.Tensor) -> list[str]:
    return list(trace(model, images).operators[1:-1:5])


def run_pipeline(
    stages: Sequence[nn.Module], images: torch.Tensor
) -> tuple[torch.Tensor, list[tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]]]:
    """What stage ranks do: every stage gets copies of what the one before made, cut off from its
    autograd graph."""
    passed: tuple[torch.Tensor, ...] = (images,)
    tape = []
    for stage in stages:
        inputs = tuple(
            tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in passed
        )
        passed = stage(*inputs)
        tape.append((inputs, passed))
    return passed[0], tape


def backward_pipeline(
    tape: list[tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]], gradient: torch.Tensor
) -> None:
    gradients: tuple[torch.Tensor | None, ...] = (gradient,)
    for inputs, outputs in reversed(tape):
        pairs = [
            (out, grad) for out, grad in zip(outputs, gradients, strict=True) if out.requires_grad
        ]
        torch.autograd.backward([out for out, _ in pairs], [grad for _, grad in pairs])
        gradients = tuple(tensor.grad for tensor in inputs)


def assert_same_step(whole: nn.Module, stages: Sequence[nn.Module], images: torch.Tensor) -> None:
    torch.manual_seed(5)
    expected = whole(images.clone())
    torch.manual_seed(5)
    result, tape = run_pipeline(stages, images)
    assert torch.equal(result, expected)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    backward_pipeline(tape, gradient)
    ours = {name: value for stage in stages for name, value in stage.named_parameters()}
    buffers = {name: value for stage in stages for name, value in stage.named_buffers()}
    assert set(ours) == {name for name, _ in whole.named_parameters()}
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(ours[name].grad, parameter.grad), name  # type: ignore[arg-type] # None fails too
    assert set(buffers) == {name for name, _ in whole.named_buffers()}
    for name, buffer in whole.named_buffers():
        assert torch.equal(buffers[name], buffer), name


@pytest.mark.parametrize(
    "into", [1, every_fifth, one_stage_per_operator], ids=["one", "every-fifth", "single"]
)
def test_stages_composed_equal_the_model(
    model: nn.Module, images: torch.Tensor, into: int | Callable[[nn.Module, torch.Tensor], Into]
) -> None:
    whole = copy.deepcopy(model)
    stages = cut(model, images, into if isinstance(into, int) else into(model, images))
    for _ in range(2):
        assert_same_step(whole, stages, images)


def test_stages_in_evaluation_equal_the_model_in_evaluation(
    model: nn.Module, images: torch.Tensor
) -> None:
    whole = copy.deepcopy(model).eval()
    stages = [stage.eval() for stage in cut(model, images, one_stage_per_operator(model, images))]
    with torch.no_grad():
        result, _ = run_pipeline(stages, images)
        assert torch.equal(result, whole(images))
        assert not torch.equal(whole(images), 0 * whole(images))


def test_a_stage_changes_neither_its_inputs_nor_what_it_hands_on(
    model: nn.Module, images: torch.Tensor
) -> None:
    stages = cut(model, images, one_stage_per_operator(model, images))
    _, tape = run_pipeline(stages, images)
    for (inputs, _), (_, handed_on) in zip(tape[1:], tape, strict=False):
        for tensor, original in zip(inputs, handed_on, strict=True):
            assert torch.equal(tensor, original)
            assert tensor._version == 0


def test_stages_hold_the_models_own_parameters_and_statistics(images: torch.Tensor) -> None:
    model = Concat().double()
    stages = cut(model, images, 2)
    stages[0](images)
    held = {
        name: value for stage in stages for name, value in stage.state_dict(keep_vars=True).items()
    }
    assert all(held[name] is value for name, value in model.state_dict(keep_vars=True).items())
    assert model.get_buffer("stem.1.num_batches_tracked").item() == 1


def test_a_number_of_stages_gives_stages_between_single_tensors_of_about_equal_work(
    images: torch.Tensor,
) -> None:
    model = build_model("torchvision.models:resnet18", 28).double()
    graph = trace(model, images)
    stages = cut(graph, None, 3)
    work = [sum(graph.observed[name].operations for name in stage.operators) for stage in stages]
    assert [name for stage in stages for name in stage.operators] == list(graph.operators)
    assert all(len(outputs) == 1 for _, outputs in run_pipeline(stages, images)[1])
    assert max(work) < 0.45 * sum(work)


def test_cut_points_are_where_one_tensor_passes(images: torch.Tensor) -> None:
    points = cut_points(trace(Concat().double(), images))
    assert points == ("stem_0", "stem_1", "stem_2", "cat", "view")


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (7, "7 stages requested, but the model has 5 cut points: ask for 1 to 6"),
        (0, "0 stages requested"),
        (["stem_0", "nowhere"], "no operator 'nowhere'"),
        (["stem_1", "stem_0"], "empty stage"),
        (["head"], "empty stage"),
        ([{"stem_0"}, {"stem_1"}], "an operator 'stem_2' in no stage"),
    ],
)
def test_stages_that_do_not_fit_the_model_are_refused(
    images: torch.Tensor, into: Into, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        cut(Concat().double(), images, into)


def test_a_stage_that_needs_a_later_one_is_refused(images: torch.Tensor) -> None:
    model = Concat().double()
    names = trace(model, images).operators
    with pytest.raises(PlanError, match="'stem_1' of stage 0 needs 'stem_0' of stage 1"):
        cut(model, images, [set(names) - {"stem_0"}, {"stem_0"}])
    with pytest.raises(PlanError, match="'stem_0' is in stages 0 and 1"):
        cut(model, images, [set(names), {"stem_0"}])
    with pytest.raises(PlanError, match="no operator 'other'"):
        cut(model, images, [{*names, "other"}])


def test_a_weight_in_two_stages_is_refused_with_both_its_names() -> None:
    images = torch.randn(2, 1, 28, 28)
    with pytest.raises(
        PlanError, match=r"stages 0 and 1 share 'first.weight' \(also 'last.weight'\)"
    ):
        cut(Tied(), images, ["norm"])
    assert len(cut(Tied(), images, ["flatten"])) == 2


class ChangesABase(nn.Module):
    """Changes a value through a view of it, and then uses the value."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = images * 2
        view = value.flatten(1)
        view.relu_()
        return value.sum((1, 2, 3)).unsqueeze(1)


@pytest.mark.parametrize("after", ["mul", "flatten", "relu_"])
def test_a_value_changed_through_a_view_is_not_cut_off_from_its_change(after: str) -> None:
    with pytest.raises(PlanError, match=r"'relu_' changes 'mul' in place.* keep them in one stage"):
        cut(ChangesABase(), torch.randn(2, 1, 4, 4), [after])


def test_a_value_changed_through_a_view_in_its_own_stage_is_kept() -> None:
    images = torch.randn(2, 1, 4, 4)
    stages = cut(ChangesABase(), images, ["sum_1"])
    assert torch.equal(run_pipeline(stages, images)[0], ChangesABase()(images))


def test_a_stage_runs_on_other_weights_and_can_be_copied(images: torch.Tensor) -> None:
    stage = cut(Chunks().double(), images, 1)[0]
    doubled = {name: parameter.detach() * 2 for name, parameter in stage.named_parameters()}
    other = copy.deepcopy(stage)
    other.load_state_dict(doubled, strict=False)
    (expected,) = other(images)
    (swapped,) = torch.func.functional_call(stage, doubled, (images,))
    assert torch.equal(swapped, expected)
    assert not torch.equal(stage(images)[0], expected)


def gradients(modules: Sequence[nn.Module]) -> dict[str, torch.Tensor | None]:
    return {name: value.grad for module in modules for name, value in module.named_parameters()}


@pytest.mark.parametrize("outer", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_regions_without_gradients_and_in_other_precisions_are_kept(
    outer: Callable[[], AbstractContextManager[object]],
) -> None:
    """They vanished from the stages, which trained a stem that the model never trains."""
    torch.manual_seed(1)
    model, images = Regions(), torch.randn(3, 1, 28, 28)
    whole = copy.deepcopy(model)
    stages = cut(model, images, one_stage_per_operator(model, images))
    with outer():
        expected = whole(images)
        result, tape = run_pipeline(stages, images)
    assert torch.equal(result, expected)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    backward_pipeline(tape, gradient)
    ours, theirs = gradients(stages), gradients([whole])
    assert theirs["stem.weight"] is None
    assert theirs["head.weight"] is not None
    for name, expected_gradient in theirs.items():
        if expected_gradient is None:
            assert ours[name] is None, name
        else:
            assert torch.equal(ours[name], expected_gradient), name  # type: ignore[arg-type] # None fails too
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    with torch.no_grad(), outer():
        expected = whole.eval()(images)
        assert torch.equal(run_pipeline([stage.eval() for stage in stages], images)[0], expected)


def test_stages_follow_the_dtype_that_they_are_moved_to() -> None:
    """A stage that reads the dtype of another stage's weight has no part of that weight."""
    images = torch.randn(2, 1, 28, 28)
    model = ReadsADtype()
    whole = copy.deepcopy(model).double()
    stages = cut(model, images, ["conv"])
    assert [name for name, _ in stages[0].named_parameters()] == ["conv.weight", "conv.bias"]
    assert dict(stages[0].named_buffers()) == {}
    moved = [stage.to(torch.float64) for stage in stages]
    result, _ = run_pipeline(moved, images.double())
    assert result.dtype == torch.float64
    assert torch.equal(result, whole(images.double()))


def test_stages_work_for_other_numbers_of_images_than_the_traced_one() -> None:
    for model in (Constants(), FollowsSizes(), SharedMask(), AssignsItems(), FollowsTypes()):
        stages = cut(model, torch.randn(2, 1, 28, 28), 2)
        images = torch.randn(7, 1, 28, 28)
        assert torch.equal(run_pipeline(stages, images)[0], model(images))


def test_tracing_adds_nothing_to_the_model() -> None:
    model = Constants()
    before = set(vars(model))
    cut(model, torch.randn(2, 1, 28, 28), 2)
    assert set(vars(model)) == before


def test_a_block_that_is_used_again_stays_on_one_stage() -> None:
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    torch.manual_seed(2)
    model = UsedTwice().double()
    graph = trace(model, images)
    assert together(graph) == (("block", "block_1", "block_2"),)
    assert cut_points(graph) == ("stem", "block_2", "relu_2", "mean")
    whole = copy.deepcopy(model)
    assert_same_step(whole, cut(graph, None, 4), images)
    for points in (["block"], ["block_1"], ["relu_1"]):
        with pytest.raises(PlanError, match=r"share 'block.weight'"):
            cut(graph, None, points)


def test_no_plan_divides_what_has_to_stay_together() -> None:
    """The planner made cuts that the runtime refuses, where others exist."""
    images = torch.randn(2, 1, 28, 28)
    for model in (UsedTwice(), Tied(), ChangesABase(), SharedMask(), Overwriting()):
        graph = trace(model, images)
        profile = Profile(
            tuple(Operator(name, name, 1.0, 1.0, 8.0, 8.0) for name in graph.operators),
            graph.edges,
            {},
            together(graph),
        )
        shapes = 0
        for stages in range(1, len(graph.operators) + 1):
            with suppress(PlanError):
                plan = even_plan(profile, (1,) * stages)
                assert len(cut(graph, None, [s.operators for s in plan.stages])) == stages
                shapes += 1
        assert shapes >= 2, type(model)


def test_a_model_with_a_lock_is_cut_and_its_stages_can_be_copied() -> None:
    images = torch.randn(2, 1, 28, 28)
    model = Locked()
    stages = cut(model, images, 2)
    assert torch.equal(run_pipeline(stages, images)[0], model(images))
    twin = copied(model)
    assert isinstance(twin, Locked)
    assert twin.locks["forward"] is model.locks["forward"]
    assert twin.locks is not model.locks
    assert twin.stem.weight is not model.stem.weight
    assert list(twin.numbers) == [1, 2]
