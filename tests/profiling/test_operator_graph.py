"""The operator graph: what is an operator, what depends on what, and what is said when a model has
none."""

import copy

import pytest
import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.models import build_model
from pytest_dnnbench.rank.profiling.operator_graph import trace
from tests.profiling.branching_models import Attending, Chunks, Concat, SqueezeExcite


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 1, 28, 28)


def test_operators_and_edges_of_a_concatenation(images: torch.Tensor) -> None:
    graph = trace(Concat(), images)
    assert graph.operators == (
        *("stem_0", "stem_1", "stem_2", "left_0", "left_1", "right", "cat"),
        *("adaptive_avg_pool2d", "view", "head"),
    )
    assert {source for source, target in graph.edges if target == "cat"} == {
        "stem_2",
        "left_1",
        "right",
    }
    assert set(graph.edges) >= {
        ("cat", "adaptive_avg_pool2d"),
        ("cat", "view"),
        ("adaptive_avg_pool2d", "view"),
    }


def test_sizes_and_lone_parameters_are_no_operators(images: torch.Tensor) -> None:
    operators = trace(Chunks(), images).operators
    assert not {"scale", "offset", "exp", "getattr_1", "getitem", "getitem_1"} & set(operators)
    assert {"chunk", "add_", "mul", "add", "truediv", "head"} <= set(operators)


def test_residual_blocks_have_a_way_around(images: torch.Tensor) -> None:
    graph = trace(build_model("torchvision.models:resnet18", 28), images)
    assert {source for source, target in graph.edges if target == "add"} == {
        "layer1_0_bn2",
        "maxpool",
    }
    assert len(graph.operators) == 69


def test_tracing_leaves_the_model_and_the_generator_as_they_were(images: torch.Tensor) -> None:
    model = SqueezeExcite()
    model.stem.eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    trace(model, images)
    assert [model.training, model.stem.training, model.depth.training] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_operators_are_described_by_module_settings_and_path(images: torch.Tensor) -> None:
    graph = trace(Concat(), images)
    assert graph.description("left_0") == "Conv2d(4, 3, kernel_size=(1, 1), stride=(1, 1)) left.0"
    assert graph.description("cat") == "cat"


def test_an_item_belongs_to_the_operator_that_made_the_tuple(images: torch.Tensor) -> None:
    graph = trace(Attending(), images)
    assert graph.operators == ("squeeze", "attention", "memory", "squeeze_1")
    assert graph.edges == (
        ("squeeze", "attention"),
        ("attention", "memory"),
        ("memory", "squeeze_1"),
    )


class Joined(Attending):
    """Hands a tuple of a tensor and None on as a whole."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.squeeze(1)
        whole = self.attention(rows, rows, rows, need_weights=False)
        return (whole * 2)[0]  # type: ignore[no-any-return] # the module's type is lost


class Branching(nn.Module):
    """Decides by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        if value.sum() > 0:  # the line that the message must show
            return value
        return -value


class WithLeaf(nn.Module):
    """The same decision inside a block that says that it is a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Branching()
        self.block.__class__ = type("Leaf", (Branching,), {"pipeline_leaf": True})
        self.last = nn.Linear(10, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.block(images))
        return logits


def test_control_flow_on_data_is_named_with_operation_line_and_remedy(images: torch.Tensor) -> None:
    with pytest.raises(UsageError) as caught:
        trace(Branching(), images)
    message = str(caught.value)
    assert "Branching cannot be cut into operators" in message
    assert "test_operator_graph.py:" in message
    assert "`if value.sum() > 0:" in message
    assert "the value of operation 'gt'" in message
    assert "pipeline_leaf = True" in message
    assert "give the stages by hand" in message
    assert "\n" not in message


def test_a_block_marked_as_a_leaf_may_decide_by_data(images: torch.Tensor) -> None:
    assert trace(WithLeaf(), images).operators == ("block", "last")


class Iterating(nn.Module):
    """Loops over the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.linear(image.mean((0, 1))) for image in images])


def test_a_loop_over_data_is_named_with_its_line(images: torch.Tensor) -> None:
    with pytest.raises(
        UsageError, match=r"test_operator_graph.py:\d+ `return torch.stack\(.*TraceError.*leaf"
    ):
        trace(Iterating(), images)


class Moody(nn.Module):
    """Does more in training than in evaluation, outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value + 1 if self.training else value


class Pair(Moody):
    """Returns two tensors."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override] # on purpose
        return images, images


class SecondReference(Moody):
    """Changes a tensor under one name and uses it under another, which tracing cannot see."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.linear(images.mean((1, 2)))
        same = value
        value += 1
        return torch.neg(same)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Moody(), "does add in training where it does output in evaluation"),
        (Pair(), "not one tensor"),
        (
            Joined(),
            "'attention' returns tensors together with other things, which 'mul' takes as a whole",
        ),
        (SecondReference(), "computes something else when traced .largest difference 1"),
    ],
)
def test_models_that_no_graph_can_stand_for_are_refused(
    model: nn.Module, message: str, images: torch.Tensor
) -> None:
    with pytest.raises(UsageError, match=message):
        trace(model, images)
