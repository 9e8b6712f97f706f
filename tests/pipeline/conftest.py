"""CPU ranks for pipelines, as many as a shape asks for: more than there are cores, where need
be."""

from collections.abc import Callable

import pytest
import torch._dynamo  # noqa: F401 - torch.optim imports it at first use, and it changes the environment

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from tests.patience import HANG_S


@pytest.fixture
def cpu_ranks(server: ForkServer) -> Callable[[int], Ranks]:
    """`cpu_ranks(n)` gives n ranks of one thread each."""
    return lambda count: Ranks(server, ["cpu"] * count, threads=1, timeout_s=HANG_S)
