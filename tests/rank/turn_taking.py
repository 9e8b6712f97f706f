"""A framework whose ranks take turns: rank r of n completes the steps r, r + n, ... ."""

import time
from collections.abc import Iterator

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.worker import Step, Worker


class TakesTurns(Worker):
    """Sleeps for a step; sees no loss."""

    samples_per_update = 1
    began_s: list[float]

    def connect(self) -> None:
        """There is no other rank to join."""

    def build(self) -> None:
        """There is no model."""

    def run(self, steps: int) -> Iterator[Step]:
        """Every n-th step. Keeps the begin of each, and the end of the run."""
        self.began_s = []
        for index in range(self.place.rank, steps, self.place.world_size):
            self.began_s.append(time.monotonic())
            self.work()
            yield Step(index, 1, None)
        self.began_s.append(time.monotonic())

    def work(self) -> None:
        """What a step does."""
        time.sleep(0.001)

    @property
    def run_on(self) -> int:
        """As many as the case's options say."""
        return int(self.case.options.get("run_on", 0))

    def prove(self) -> Correctness:
        """There is nothing to compare."""
        return Correctness({}, {})

    def align(self) -> None:
        """Does not wait."""

    @property
    def stride(self) -> int:
        """The number of ranks."""
        return self.place.world_size

    def details(self) -> dict[str, object]:
        """When each step began."""
        return {"began_s": self.began_s}

    def close(self) -> None:
        """There is no group to leave."""
