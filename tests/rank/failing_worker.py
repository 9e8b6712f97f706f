"""A framework that fails in the phase, and in the way, that its case's options name."""

import os
import signal
import time
from collections.abc import Iterator

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.worker import Step, Worker


class FailsIn(Worker):
    """Every rank completes every step, until rank 1 comes to the phase."""

    samples_per_update = 1

    def connect(self) -> None:
        """There is no other rank to join."""
        self._come_to("group")

    def build(self) -> None:
        """There is no model."""
        self._come_to("build")

    def run(self, steps: int) -> Iterator[Step]:
        """One sample per step; the timed steps fail after two."""
        for index in range(steps):
            if index == 1:
                self._come_to("warm-up")
            if index == self.timed.start + 2:
                self._come_to("timed steps")
            yield Step(index, 1, None)

    def prove(self) -> Correctness:
        """There is nothing to compare."""
        self._come_to("proof")
        return Correctness({}, {})

    def align(self) -> None:
        """Does not wait."""

    def details(self) -> dict[str, object]:
        """No facts."""
        self._come_to("report")
        return {}

    def close(self) -> None:
        """There is no group to leave."""
        self._come_to("teardown")

    def _come_to(self, phase: str) -> None:
        if self.case.options["phase"] != phase or self.place.rank != 1:
            return
        if self.case.options["how"] == "raise":
            raise ValueError("planted")
        if self.case.options["how"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)
