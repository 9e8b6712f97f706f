"""Copies of one weight in several stages."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.rank.pipeline.ties import TiedGradients
from tests.patience import HANG_S

Gradients = list[float | None]


def added(by_rank: list[Gradients], steps: int = 2) -> list[Gradients]:
    """What the copies of a rank have after each of several steps; `by_rank` has one gradient for
    each of a rank's copies in each step."""
    own = by_rank[dist.get_rank()]
    copies = [nn.Parameter(torch.zeros(3)) for _ in own]
    tied = TiedGradients(copies, dist.group.WORLD)
    after = []
    for _ in range(steps):
        for copy, gradient in zip(copies, own, strict=True):
            copy.grad = None if gradient is None else torch.full((3,), gradient)
        tied.add_up()
        after.append([None if copy.grad is None else float(copy.grad[0]) for copy in copies])
    return after


@pytest.mark.parametrize(
    ("by_rank", "expected"),
    [
        ([[1.0], [2.0]], 3.0),
        ([[None], [2.0]], 2.0),
        ([[1.0, None], [None]], 1.0),
        ([[None, None], [None]], None),
    ],
    ids=str,
)
def test_copies_get_the_sum_and_none_where_nobody_has_one(
    server: ForkServer, by_rank: list[Gradients], expected: float | None
) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    for own, after in zip(by_rank, ranks.run(added, by_rank), strict=True):
        assert after == [[expected] * len(own)] * 2
