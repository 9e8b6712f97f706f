"""Convolutions of whole minibatches in float64, beside torch's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv1d, conv2d, conv3d, conv_transpose2d

from pytest_dnnbench.rank.proof.float64_convolutions import Float64Convolutions
from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, OperatorMode, name_of

Form = tuple[
    tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], int
]

FORMS: list[Form] = [
    # an image, kernel, stride, padding, dilation, groups of 6 channels
    ((2, 2), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 1), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((4, 5), (3, 2), (2, 1), (1, 0), (1, 2), 1),
    ((3, 3), (1, 1), (1, 1), (0, 0), (1, 1), 3),
    ((5, 5), (5, 5), (2, 2), (2, 2), (1, 1), 6),
    ((7, 3), (2, 3), (3, 1), (0, 1), (2, 1), 2),
]


class Names(OperatorMode):
    """Notes the operators that torch's own kernels run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator."""
        self.names.add(name_of(operator))
        return operator(*args, **named)


def results(form: Form, bias: bool, trained: str) -> list[torch.Tensor]:
    """The output of a convolution, and the gradients of what is trained."""
    size, kernel, stride, padding, dilation, groups = form
    torch.manual_seed(0)
    layer = nn.Conv2d(
        6, 12, kernel, stride, padding, dilation, groups, bias=bias, dtype=torch.float64
    )
    inputs = torch.randn(4, 6, *size, dtype=torch.float64, requires_grad="inputs" in trained)
    layer.requires_grad_("weights" in trained)
    output = layer(inputs)
    output.backward(torch.randn_like(output))
    gradients = [inputs.grad, *(each.grad for each in layer.parameters())]
    return [output.detach(), *(each for each in gradients if each is not None)]


@pytest.mark.parametrize("trained", ["inputs", "weights", "inputs and weights"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_they_are_torchs_to_the_last_digits(form: Form, bias: bool, trained: str) -> None:
    expected = results(form, bias, trained)
    with Names() as below, Float64Convolutions():
        got = results(form, bias, trained)
    assert not {"convolution", "convolution_backward"} & below.names
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("channels_last", ["inputs", "weight", "inputs and weight"])
@pytest.mark.parametrize("size", [(2, 2), (1, 1)])
def test_an_output_has_the_layout_that_torch_gives_it(
    size: tuple[int, int], channels_last: str
) -> None:
    inputs, weight = drawn(4, 6, *size), drawn(12, 6, 3, 3)
    if "inputs" in channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if "weight" in channels_last:
        weight = weight.contiguous(memory_format=torch.channels_last)
    expected = conv2d(inputs, weight, drawn(12), padding=1)
    with Float64Convolutions():
        got = conv2d(inputs, weight, drawn(12), padding=1)
    assert got.is_contiguous() == expected.is_contiguous()
    last = torch.channels_last
    assert got.is_contiguous(memory_format=last) == expected.is_contiguous(memory_format=last)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    "call",
    [
        lambda: conv2d(drawn(4, 2, 4, 4), drawn(2, 2, 1, 1)),  # 16 places: torch is as fast
        lambda: conv2d(drawn(1, 2, 2, 2), drawn(2, 2, 1, 1)),  # an image alone
        lambda: conv2d(drawn(2, 2, 2), drawn(2, 2, 1, 1)),
        lambda: conv2d(drawn(4, 2, 1, 1).float(), drawn(2, 2, 1, 1).float()),
        lambda: conv_transpose2d(drawn(4, 2, 1, 1), drawn(2, 2, 1, 1)),
        lambda: conv1d(drawn(4, 2, 3), drawn(2, 2, 1)),
        lambda: conv3d(drawn(4, 2, 1, 1, 1), drawn(2, 2, 1, 1, 1)),
    ],
)
def test_all_others_are_torchs_own(call: Callable[[], torch.Tensor]) -> None:
    with Names() as below, Float64Convolutions():
        call()
    assert "convolution" in below.names
    assert "bmm" not in below.names
