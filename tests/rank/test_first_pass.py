"""What a user's model or loss raises in its first pass says what it was called with."""

from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank import entry
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.workloads.first_pass import described, first_loss
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


class OfTokens(nn.Module):
    """Takes tokens, (batch, sequence)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, Any]:
        """Logits in a dict."""
        batch, length = tokens.shape
        return {"logits": self.head(tokens.view(batch, length, 1)), "mask": mask}


class Detecting(Workload):
    """Gives a list to a model that wants it as one argument."""

    def model(self) -> nn.Module:
        """Of tokens."""
        return OfTokens()

    def batch(self, size: int) -> Batch:
        """A list of vectors."""
        return [torch.ones(2) for _ in range(size)], torch.zeros(size, dtype=torch.long)


class Unwrapped(Detecting):
    """Its loss does not take the dict that its model returns."""

    def batch(self, size: int) -> Batch:
        """Tokens."""
        return torch.ones(size, 2), torch.zeros(size, 2, dtype=torch.long)


def told(workload: Workload, model: nn.Module, size: int = 3) -> str:
    """What the session shows of the first pass."""
    try:
        first_loss(workload, model, workload.batch(size))
    except Exception as error:
        return entry.described(error).message
    raise AssertionError("nothing was raised")


def test_a_model_of_no_images_is_told_that_it_needs_a_workload() -> None:
    message = told(ImageWorkload("tests.tiny_models:tiny", 28), OfTokens())
    assert message == (
        "too many values to unpack (expected 2); OfTokens was called with the suite's images, a"
        " tensor (3, 1, 28, 28) of float32 (three channels by --dnn-image-size 224): a model of"
        " anything else needs a pytest_dnnbench.Workload, which says what it is trained on"
    )


def test_a_list_that_should_be_one_argument_is_told_how() -> None:
    message = told(Detecting(), OfTokens())
    assert "takes from 2 to 3 positional arguments but 4 were given; OfTokens was" in message
    assert "for a list as one argument, return it as a tuple's one value" in message
    assert "the values of a list (a tensor (2,) of float32, a tensor (2,)" in message


def test_a_loss_that_does_not_take_the_output_is_told_what_that_is() -> None:
    message = told(Unwrapped(), OfTokens())
    assert "'dict' object has no attribute 'flatten'; Unwrapped.loss was called with" in message
    assert "a dict ('logits': a tensor (3, 2, 3) of float32, 'mask': None)" in message
    assert message.endswith("and the targets, a tensor (3, 2) of int64")


@pytest.mark.parametrize("error", [UsageError("u"), MemoryError("m"), torch.OutOfMemoryError("o")])
def test_what_has_nothing_to_do_with_the_inputs_gets_no_note(error: Exception) -> None:
    class Raising(OfTokens):
        def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
            raise error

    assert told(Unwrapped(), Raising()) == str(error)


def test_many_values_are_counted() -> None:
    assert described([torch.ones(1)] * 9) == "a list (9 values)"
    assert described((torch.ones(2), None)) == "a tuple (a tensor (2,) of float32, None)"


def test_a_model_that_does_not_take_the_example_is_not_blamed_on_tracing() -> None:
    with pytest.raises(UsageError) as caught:
        trace(OfTokens(), torch.ones(2, 1, 28, 28))
    message = str(caught.value)
    assert message.startswith(
        "OfTokens raises ValueError when it is called with a tensor (2, 1, 28, 28) of float32: too"
    )
    assert message.endswith("needs a pytest_dnnbench.Workload, which says what it is trained on")


class WrongInPieces(nn.Module):
    """Runs, and its operators one by one do not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Rows of a size that is another in a trace."""
        size = 3 if isinstance(images, torch.Tensor) else 4
        value: torch.Tensor = self.head(images).view(-1, size)
        return value


def test_operators_that_do_not_run_where_the_model_does_are_told_so() -> None:
    message = r"WrongInPieces cannot be cut .* one by one they end in RuntimeError: .*pipeline_leaf"
    with pytest.raises(UsageError, match=message):
        trace(WrongInPieces(), torch.ones(2, 3))
