"""Which SGD a framework gets, on devices that a test names."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.update_rule import fuses


def weight(device: str, *, floating: bool = True) -> Any:
    return SimpleNamespace(is_cuda=device == "cuda", is_floating_point=lambda: floating)


def test_sgd_is_fused_where_all_weights_are_real_numbers_on_gpus() -> None:
    assert fuses([weight("cuda"), weight("cuda")])
    assert not fuses([weight("cuda"), weight("cpu")])
    assert not fuses([weight("cuda", floating=False)])
    sharded = weight("cuda")
    sharded.placements = ()
    assert not fuses([sharded])
    assert not fuses([])
    assert not fuses(nn.Linear(2, 2).parameters())
    assert not fuses([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
