"""Plants one fault in one rank phase of one rank; the framework is otherwise the real one. Runs on
ranks.

What to plant is in the rank's environment, set by matrix.Plant or of two nodes by two_nodes.py: a
fault may have to strike when this module is imported.
"""

import ctypes
import dataclasses
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch
import torch.distributed as dist

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.proc import process_fields
from pytest_dnnbench.rank.frameworks.ddp import DdpWorker
from pytest_dnnbench.rank.frameworks.horovod import HorovodWorker
from pytest_dnnbench.rank.frameworks.pipedream import PipeDreamWorker
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.worker import Step

FAULT, _, RANK_PHASE = os.environ.get("PLANTED_FAULT", "none@nowhere").partition("@")
CULPRIT = os.environ.get("PLANTED_HERE") == os.environ.get("PLANTED_ON", "1")

Weights = Callable[[], list[torch.Tensor]]


def strike(rank_phase: str, weights: Weights = list, meet: Callable[[], object] = int) -> None:
    """Does the planted harm if this is its rank phase. A skipped collective is one that only the
    other ranks enter."""
    if rank_phase != RANK_PHASE:
        return
    if CULPRIT:
        print("last words of the culprit", flush=True)
        HARM[FAULT](weights)
    elif FAULT == "skipped collective":
        meet()


def _raise(_: Weights) -> None:
    raise ValueError("planted")


def _use_up_memory(_: Weights) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.ones(1 << 28)


def _flood(_: Weights) -> None:
    while True:
        os.write(1, b"a flood of output\n" * 1000)


def _poison(weights: Weights) -> None:
    for tensor in weights():
        tensor.data.fill_(float("nan"))


def _disagree(weights: Weights) -> None:
    for tensor in weights():
        tensor.data.add_(0.01)


def _end(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
    threading.Event().wait()


def _parent_of(pid: int) -> int:
    return int(process_fields(pid)[1])


def _cut_the_link() -> None:
    subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)


HARM: dict[str, Callable[[Weights], object]] = {
    "exception": _raise,
    "SIGKILL": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSTOP": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "skipped collective": lambda _: threading.Event().wait(),
    "out of memory": _use_up_memory,
    "NaN loss": _poison,
    "SIGSEGV": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "flood of output": _flood,
    "exit 0": lambda _: os._exit(0),
    "another model": _disagree,
    "agent killed": lambda _: _end(_parent_of(os.getppid()), signal.SIGKILL),
    "agent stopped": lambda _: _end(_parent_of(os.getppid()), signal.SIGSTOP),
    "fork server killed": lambda _: _end(os.getppid(), signal.SIGKILL),
    "fork server stopped": lambda _: _end(os.getppid(), signal.SIGSTOP),
    "engine's step ended": lambda _: _end(_parent_of(_parent_of(os.getppid())), signal.SIGKILL),
    "link down": lambda _: _cut_the_link(),
}


class Planted:
    """A worker that the fault may strike in each of its phases. Mixed in before the real
    framework's class."""

    place: Any
    request: Any

    _proving = False

    def weights(self) -> list[torch.Tensor]:
        """This rank's weights, which the fault may harm."""
        module: torch.nn.Module = self.module  # type: ignore[attr-defined] # a data-parallel worker's
        return list(module.parameters())

    def meet(self) -> None:
        """A collective of all ranks."""
        dist.barrier()

    def strike(self, rank_phase: str) -> None:
        """As the function of this name, on this rank's weights."""
        strike(rank_phase, self.weights, self.meet)

    def connect(self) -> None:
        """Strikes before it: a skipped collective is here the start of the group itself."""
        strike("group")
        super().connect()  # type: ignore[misc] # the framework's

    def build(self) -> None:
        """Strikes after it, when there are weights; the proof builds too, and is another phase."""
        super().build()  # type: ignore[misc] # the framework's
        if not self._proving:
            self.strike("build")

    def prove(self) -> Correctness:
        """The real framework's proof."""
        self._proving = True
        correctness: Correctness = super().prove()  # type: ignore[misc] # the framework's
        return correctness

    def run(self, steps: int) -> Iterator[Step]:
        """Strikes after the second step of the warm-up and after that of the timed steps."""
        for step in super().run(steps):  # type: ignore[misc] # the framework's
            if step.index == 1:
                self.strike("warm-up")
            if step.index == self.request.warmup + 1:
                self.strike("timed steps")
            yield step

    def details(self) -> dict[str, object]:
        """Strikes while the report is made."""
        self.strike("report")
        return super().details()  # type: ignore[misc, no-any-return] # the framework's

    def close(self) -> None:
        """Strikes before it."""
        self.strike("teardown")
        super().close()  # type: ignore[misc] # the framework's

    def build_wide(self) -> None:
        """What the proof of a data-parallel worker starts with."""
        super().build_wide()  # type: ignore[misc] # a data-parallel worker's
        self.strike("proof")


class Single(Planted, SingleWorker):
    """`single`."""


class Ddp(Planted, DdpWorker):
    """`ddp`."""


class Horovod(Planted, HorovodWorker):
    """`horovod`."""

    def meet(self) -> None:
        """Horovod's own."""
        hvd.barrier()


class PipeDream(Planted, PipeDreamWorker):
    """`pipedream`, in two stages."""

    def weights(self) -> list[torch.Tensor]:
        """The newest version."""
        return weights_of(self._runtime)

    def _assembled(self, *arguments: Any, **settings: Any) -> Runtime:
        runtime = super()._assembled(*arguments, **settings)
        strike("proof", lambda: weights_of(runtime), dist.barrier)
        return runtime

    def stages(self, wide: bool = False) -> list[torch.nn.Module]:
        """Another model of a pipeline is one from another seed, because no other rank holds the
        same stage."""
        if FAULT == "another model" and RANK_PHASE == "build" and CULPRIT and not wide:
            self.case = _reseeded(self.case)
        return super().stages(wide)


def weights_of(runtime: Runtime) -> list[torch.Tensor]:
    """The newest version that a stage holds."""
    stash = runtime.stage.stash
    return list(stash._versions[stash.newest])


def _reseeded(case: Any) -> Any:
    return dataclasses.replace(case, seed=case.seed + 1)


strike("import")
