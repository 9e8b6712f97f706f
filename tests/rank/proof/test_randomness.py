"""Random operators give their means, forward and backward, whichever module draws them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_dnnbench.rank.proof.randomness import NoRandomness

SLOPE = (1 / 8 + 1 / 3) / 2
"""The mean of RReLU's slopes."""


def quietened(
    module: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A module's outputs and the gradient of their sum, without randomness."""
    given = inputs.clone().requires_grad_()
    with NoRandomness():
        outputs = module(given * 1)  # a leaf that takes a gradient cannot be changed in place
        (gradient,) = torch.autograd.grad(outputs.sum(), given)
    return outputs.detach(), gradient


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
def test_rrelu_has_its_mean_slope_in_the_backward_pass_too(
    precision: torch.dtype, inplace: bool
) -> None:
    """Its gradients were made of memory that nothing had been written to."""
    inputs = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=precision)
    outputs, gradient = quietened(nn.RReLU(inplace=inplace), inputs)
    slopes = torch.tensor([SLOPE, SLOPE, SLOPE, 1.0, 1.0], dtype=precision)
    torch.testing.assert_close(outputs, inputs * slopes, rtol=0, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=0, atol=0)


def test_rrelu_in_evaluation_is_torchs_own() -> None:
    inputs = torch.linspace(-2.0, 2.0, 9)
    outputs, _ = quietened(nn.RReLU().eval(), inputs)
    torch.testing.assert_close(outputs, nn.RReLU().eval()(inputs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Dropout(0.3), (32,)),
        (nn.Dropout1d(0.3), (2, 4, 4)),
        (nn.Dropout2d(0.3), (2, 2, 2, 4)),
        (nn.Dropout3d(0.3), (2, 2, 2, 2, 2)),
    ],
)
def test_dropout_of_every_shape_is_the_identity(module: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.linspace(-1.0, 1.0, 32).reshape(shape)
    outputs, gradient = quietened(module, inputs)
    torch.testing.assert_close(outputs, inputs)
    torch.testing.assert_close(gradient, torch.ones_like(inputs))
