"""On ranks: our workers, which also tell the processor time of their timed steps, and that of whole
proofs and launches. It hardly depends on other work on the machine, so that it tells work from
waiting where the rate cannot."""

import importlib
import time
from collections.abc import Iterator

from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import timed_run
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
        """With `cpu_s`, the seconds of a step on this rank, of all its threads; and the layers that
        tensor parallelism splits."""
        return {**super().details(), "cpu_s": self._cpu_s, "split": getattr(self, "split", {})}


def __getattr__(framework: str) -> type[Worker]:
    """The worker of a built-in framework, by its name, timed. Horovod is imported for its own
    alone."""
    rows = {row.name: row for row in FRAMEWORKS}
    if framework not in rows:
        raise AttributeError(framework)
    module, _, name = rows[framework].worker.partition(":")
    kind = getattr(importlib.import_module(module), name)
    return type(name, (_Timed, kind), {})


def prove(place: Place, request: RunRequest) -> float:
    """Proves a case; the processor seconds of this rank since its fork."""
    if failures := timed_run.prove(place, request).failures:
        raise WrongResult("; ".join(failures))
    return time.process_time()


def measure(place: Place, request: RunRequest) -> float:
    """Makes a launch of a case; the processor seconds of this rank since its fork."""
    timed_run.measure(place, request)
    return time.process_time()
