"""The operator graph: what is an operator, what depends on what, and what is said when a model has
none."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.profiling import observation
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.workloads.image_models import build_model
from pytest_dnnbench.rank.workloads.structure import tensors_of
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


def test_looking_for_writes_takes_no_value_apart_twice(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """maxvit_t took minutes: all values were taken apart at every one of 883 operators."""
    apart = []

    def counted(value: object) -> list[Any]:
        apart.append(value)
        return tree_leaves(value)

    monkeypatch.setattr(observation, "tree_leaves", counted)
    chain = nn.Sequential(nn.Flatten(), *(nn.ReLU(inplace=n % 2 == 1) for n in range(60)))
    graph = trace(nn.Sequential(chain, nn.Linear(784, 10)), images)
    assert len(graph.operators) == 62
    assert sum(bool(each.overwrites) for each in graph.observed.values()) == 30, "in-place ReLUs"
    assert len(apart) <= 2 * 4 * 62, "twice, for training and evaluation, at most 4 per operator"


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
        UsageError,
        match=r"test_operator_graph.py:\d+ `return torch.stack\(.*is 2 for 2 samples and 3.*leaf",
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


class Calm(Moody):
    """Does more in evaluation."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value if self.training else value + 1


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
        (Calm(), "does output in training where it does add in evaluation"),
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


class ByTheBatch(Moody):
    """Takes another way for an odd number of images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value if images.shape[0] % 2 else -value


class ByTheDtype(Moody):
    """Takes another way for another dtype: the proof's."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value if images.dtype == torch.float64 else -value


class ByTheActivation(Moody):
    """Takes another way for another type of an activation: that of autocast."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value if value.dtype == torch.bfloat16 else -value


class ByTheDevice(Moody):
    """Takes another way on another device than that of the trace."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value if images.is_cuda else -value


class Random(Moody):
    """Makes a tensor of random numbers without the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(images.mean((1, 2)) + torch.rand(28))
        return value


class Counting(Moody):
    """Counts its forwards in a buffer."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        value: torch.Tensor = self.linear(images.mean((1, 2)))
        return value


class WritesToAConstant(Moody):
    """Adds to a tensor that it makes without the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(28)
        total += images.mean((0, 1, 2))
        value: torch.Tensor = self.linear(images.mean((1, 2)) + total)
        return value


class Auxiliary(Moody):
    """Returns a second result in training, as Inception does."""

    def __init__(self) -> None:
        super().__init__()
        self.aux1 = nn.Linear(28, 10)

    def forward(self, images: torch.Tensor) -> Any:
        value = self.linear(images.mean((1, 2)))
        return (value, self.aux1(images.mean((1, 2)))) if self.training else value


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            ByTheBatch(),
            r"`return value if images.shape\[0\] .* which is False for 2 samples and True",
        ),
        (
            ByTheDtype(),
            r"`return value if images.dtype == .* the value of operation 'eq', which is False for"
            r" 2 samples and True for 2 samples in float64",
        ),
        (ByTheActivation(), "is False for 2 samples and True for 2 samples under autocast"),
        (ByTheDevice(), "control flow depends on the value of operation 'getattr_1'"),
        (Random(), "makes tensors in its forward that are others each time, from random numbers"),
        (Counting(), "'add_' changes count and nothing uses its result, so no stage would run it"),
        (
            WritesToAConstant(),
            "changes a tensor in place that the forward makes without the images",
        ),
    ],
)
def test_what_a_trace_would_get_wrong_is_refused_with_the_reason(
    model: nn.Module, message: str, images: torch.Tensor
) -> None:
    with pytest.raises(UsageError, match=message):
        trace(model, images)


def test_nothing_of_torch_stays_replaced_after_a_trace(images: torch.Tensor) -> None:
    before = [torch.zeros, torch.finfo, torch.autocast.__enter__, torch.autocast.__exit__]
    with torch.no_grad(), pytest.raises(UsageError):
        trace(ByTheBatch(), images)
    after = [torch.zeros, torch.finfo, torch.autocast.__enter__, torch.autocast.__exit__]
    assert after == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("model", [Auxiliary(), Moody()])
def test_what_training_alone_runs_is_left_out_of_evaluation(
    model: nn.Module, images: torch.Tensor
) -> None:
    """The nodes that both have go by one name."""
    graph = trace(model, images)
    by_mode = {True: graph.training, False: graph.evaluation}
    names = {mode: {node.name for node in each.nodes} for mode, each in by_mode.items()}
    assert names[False] < names[True]
    for mode, stages in ((mode, cut(graph, None, ["linear"])) for mode in (True, False)):
        row: tuple[torch.Tensor, ...] = (images,)
        for stage in stages:
            row = stage.train(mode)(*row)
        expected = tuple(tensors_of(model.train(mode)(images)))
        assert len(row) == len(expected) == len(graph.returns[mode])
        assert all(map(torch.equal, row, expected))
