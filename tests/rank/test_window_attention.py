"""Attention in windows, split by heads on two ranks: beside torchvision's own in one process, in
float64, over windows, shifts and images of many shapes."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.window_attention import split_windows
from pytest_dnnbench.rank.workloads.torchvision_ops import load_torchvision
from tests.patience import HANG_S

HEADS, FEATURES = 4, 12

Built = tuple[str, nn.Module, torch.Tensor]
"""A name, a module and its input, both in double precision."""


def swins() -> list[Built]:
    """With and without biases and shifts, on images that are padded, and smaller than a window."""
    swin: Any = load_torchvision().models.swin_transformer
    kinds = (swin.ShiftedWindowAttention, swin.ShiftedWindowAttentionV2)
    windows = (([2, 3], [1, 1]), ([2, 2], [0, 1]), ([3, 2], [0, 0]), ([7, 4], [3, 2]))
    made = []
    for kind, (size, shift), image, biased in itertools.product(
        kinds, windows, ((4, 6), (5, 5)), (True, False)
    ):
        module = kind(FEATURES, size, shift, HEADS, qkv_bias=biased, proj_bias=biased).double()
        name = f"{kind.__name__} {size} {shift} {image} {biased}"
        made.append((name, module, torch.randn(2, *image, FEATURES, dtype=torch.float64)))
    return made


def maxvits() -> list[Built]:
    kind: Any = load_torchvision().models.maxvit.RelativePositionalMultiHeadAttention
    module = kind(FEATURES, FEATURES // HEADS, 9).double()
    return [("maxvit", module, torch.randn(2, 4, 9, FEATURES, dtype=torch.float64))]


def deviations(place: Place) -> dict[str, float]:
    """By module: the largest deviation of the output, of the gradient of the input and of each
    parameter's, relative to the largest element of what it is compared with."""
    with group.membership(place):
        mesh = init_device_mesh("cpu", (place.world_size,))
        torch.manual_seed(0)
        errors = {}
        for name, module, value in (*swins(), *maxvits()):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
            upstream = torch.randn_like(value)
            right = results(module, value, upstream)
            split_windows(module, mesh)
            split = results(module, value, upstream)
            assert sum(isinstance(each, DTensor) for each in module.parameters()) == 2
            assert right.keys() == split.keys()
            errors[name] = max(
                float((split[key] - right[key]).abs().max() / right[key].abs().max().clamp_min(1.0))
                for key in right
            )
        return errors


def results(
    module: nn.Module, value: torch.Tensor, upstream: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Output, the input's gradient, and those of the parameters by name."""
    module.zero_grad()
    leaf = value.clone().requires_grad_()
    output = module(leaf)
    output.backward(upstream)
    assert leaf.grad is not None
    gradients = {
        name: whole(each.grad).clone()
        for name, each in module.named_parameters()
        if each.grad is not None
    }
    return {"output": output.detach(), "input": leaf.grad, **gradients}


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_gradient_is_that_of_the_whole(server: ForkServer, ranks: int) -> None:
    """Sums of at most 12 features, 28 pixels and 60 windows, of some rounding each: a thousand
    units of double precision are far more, and any wrong head is of the order of one."""
    launched = Ranks(server, ["cpu"] * ranks, threads=1, timeout_s=HANG_S)
    for errors in launched.launch("tests.rank.test_window_attention:deviations"):
        assert len(errors) == 33
        for name, error in errors.items():
            assert error <= 1000 * torch.finfo(torch.float64).eps, name
