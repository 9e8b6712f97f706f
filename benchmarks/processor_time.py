"""On ranks: our workers, which also tell the processor time of their timed steps, and that of whole
proofs and launches. It hardly depends on other work on the machine, so that it tells work from
waiting where the rate cannot."""

import time
from collections.abc import Iterator

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import timed_run
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.frameworks.fsdp import FsdpWorker
from pytest_dnnbench.rank.frameworks.torch_pipeline import TorchPipelineWorker
from pytest_dnnbench.rank.worker import Step, Worker


class _Timed(Worker):
    _cpu_s = 0.0

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run."""
        begin = time.process_time() if self.timed.start == 0 else 0.0
        for step in super().run(steps):  # type: ignore[safe-super] # of the framework's class
            if step.index + 1 == self.timed.start:
                begin = time.process_time()
            if step.index + 1 == self.timed.stop:
                self._cpu_s = (time.process_time() - begin) / len(self.timed)
            yield step

    def details(self) -> dict[str, object]:
        """With `cpu_s`: seconds of a step on this rank, of all its threads."""
        return {**super().details(), "cpu_s": self._cpu_s}


class Ddp(_Timed, DdpWorker):
    """`ddp`."""


class Fsdp(_Timed, FsdpWorker):
    """`fsdp`."""


class Schedule(_Timed, TorchPipelineWorker):
    """A schedule of torch."""


def prove(place: Place, request: RunRequest) -> float:
    """Proves a case; the processor seconds of this rank since its fork."""
    if failures := timed_run.prove(place, request).failures:
        raise WrongResult("; ".join(failures))
    return time.process_time()


def measure(place: Place, request: RunRequest) -> float:
    """Makes a launch of a case; the processor seconds of this rank since its fork."""
    timed_run.measure(place, request)
    return time.process_time()
