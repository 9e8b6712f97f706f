"""A rank on a machine that sleeps for seven seconds after the first step: the clock is injected,
nobody waits."""

from collections.abc import Iterator

from pytest_dnnbench.rank import timed_run
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.worker import Step


class Sleeps(SingleWorker):
    """`single`."""

    def run(self, steps: int) -> Iterator[Step]:
        """From the first step on the clocks differ by seven seconds more."""
        real = timed_run.asleep_s
        for step in super().run(steps):
            timed_run.asleep_s = lambda: real() + 7.0
            yield step
