"""A forward that works between its operators is not cut: stages would leave that work out."""

import time
from collections.abc import Iterator

import pytest
import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.profiling import host_work
from pytest_dnnbench.rank.profiling.host_work import refuse_host_work
from pytest_dnnbench.rank.profiling.operator_graph import trace
from tests.profiling.branching_models import Concat, UsedTwice


class Sleeping(UsedTwice):
    """Sleeps in its forward."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.stem(images)
        time.sleep(0.05)
        logits: torch.Tensor = self.head(value.mean((2, 3)))
        return logits


def test_a_sleep_in_the_forward_is_refused_with_the_line_behind_it() -> None:
    images = torch.randn(2, 1, 28, 28)
    with pytest.raises(
        UsageError,
        match=r"Sleeping takes \d+\.?\d* ms, and its operators .*before .*test_host_work.py:\d+"
        r" `logits: torch.Tensor = self.head.*which stages of a pipeline would leave out",
    ):
        refuse_host_work(trace(Sleeping(), images), images)


def clock_of(parts_s: float, wholes_s: Iterator[float]) -> Iterator[float]:
    """The times at the start and at the end of runs, operators and forward in turn."""
    now = 0.0
    while True:
        for taken_s in (parts_s, next(wholes_s)):
            yield now
            now += taken_s
            yield now


@pytest.mark.parametrize(
    ("parts_s", "wholes_s", "refused"),
    [
        (0.1, [0.15] * 10, False),
        (0.1, [0.25] * 10, True),
        (0.1, [0.9] * 9 + [0.1], False),  # other work on the machine
        (1e-5, [9e-4] * 10, False),  # function calls
        (1e-5, [2e-3] * 10, True),
    ],
)
def test_a_forward_is_refused_only_if_its_fastest_run_takes_twice_its_operators(
    parts_s: float, wholes_s: list[float], refused: bool
) -> None:
    images = torch.randn(2, 1, 28, 28)
    graph, clock = trace(Concat(), images), clock_of(parts_s, iter(wholes_s))
    assert sum(host_work._RUNS) == len(wholes_s)
    if not refused:
        refuse_host_work(graph, images, clock.__next__)
        return
    with pytest.raises(UsageError, match="the rest is work on the host"):
        refuse_host_work(graph, images, clock.__next__)
