"""A rank's timed run: warm-up, the timed steps, the report. The only code that reads a clock around
a framework's steps.

    connect ─> build ─> warm-up ─> align, synchronise ─┤ timed steps ├─> synchronise ─> report

Frameworks live behind Worker (worker.py) and never time themselves. Not here: the clock and the
peaks of the timed steps (window.py), the facts of the environment (rank_facts.py).
"""

import importlib
import math
from dataclasses import dataclass, field

import torch

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness, Place, RankReport, RunRequest
from pytest_dnnbench.rank import group, rank_phase
from pytest_dnnbench.rank.precision import set_matmul_precision
from pytest_dnnbench.rank.rank_facts import environment

# Under its own name on purpose: a test replaces it here.
from pytest_dnnbench.rank.suspension import asleep_s as asleep_s
from pytest_dnnbench.rank.window import Timing, Window, window_for
from pytest_dnnbench.rank.worker import Step, Worker

_KEPT: list[Worker] = []
"""Keeps a worker to the end of its process: Python must not tear down what it has of a process
group."""


def measure(place: Place, request: RunRequest) -> RankReport:
    """Runs the case's warm-up and timed steps on this rank. Raises WrongResult when a loss is not
    finite."""
    worker = _worker(place, request)
    rank_phase.enter("group")
    worker.connect()
    rank_phase.enter("build")
    worker.build()
    rank_phase.enter("warm-up", request.warmup)
    asleep_before_s = asleep_s()
    run = _TimedRun(worker, window_for(torch.device(place.device)), request.warmup, request.steps)
    timing = run.run()
    suspended_s = asleep_s() - asleep_before_s
    rank_phase.enter("report")
    report = _report(worker, run, timing, suspended_s)
    rank_phase.enter("teardown")
    worker.close()
    return report


def prove(place: Place, request: RunRequest) -> Correctness:
    """Compares the framework's step with its reference on this rank; nothing is timed."""
    worker = _worker(place, request)
    rank_phase.enter("group")
    worker.connect()
    rank_phase.enter("proof")
    correctness = worker.prove()
    rank_phase.enter("teardown")
    worker.close()
    return correctness


@dataclass(slots=True)
class _TimedRun:
    """The steps of a run as the worker completes them, and the window around the timed ones.

    Step indices count over the whole job. A rank whose framework takes turns completes every
    `stride`-th of them. Here warmup = 3 and steps = 4, and the worker runs on for 2 steps, so that
    its last timed steps are not timed in an emptying pipeline:

                           warm-up   │ timed         │ run on
        index              0   1   2 │ 3   4   5   6 │ 7   8         ▶ opens   ◼ closes
        rank, stride 1     •   •   • ▶ •   •   •   • ◼ •   •         [1]
        rank, stride 3     • ▶         •           • ◼               [1]
        rank, stride 3         • ▶         • ◼         •             [1]
        rank, stride 9   ▶                                 • ◼       [0] [2]

    The window opens after the last warm-up step of this rank; [0] before the first step, where the
    rank has no warm-up step of its own. It closes in one of three places:

        [1] after the last timed step of this rank, before a further step can begin
        [2] at the first step of the run-on, where the rank had no timed step to close at
        [3] after the run, where neither came
    """

    worker: Worker
    window: Window
    warmup: int
    steps: int
    timed: list[Step] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    _samples: int = 0
    _timing: Timing | None = None

    def run(self) -> Timing:
        if self.warmup < self.worker.stride:  # [0]
            self._open()
        for step in self.worker.run(self._end + self.worker.run_on):
            if step.index >= self._end:
                self._close()  # [2]
                continue
            # The loss of every step counts, warm-up included: that is how a run is compared.
            if step.loss is not None:
                self.losses.append(step.loss)
            if step.index < self.warmup:
                self._warmed_up(step)
            else:
                self._time(step)
        return self._close()  # [3]

    @property
    def _end(self) -> int:
        return self.warmup + self.steps

    def _warmed_up(self, step: Step) -> None:
        rank_phase.step(step.index + 1)
        if step.index + self.worker.stride >= self.warmup:
            self._open()

    def _time(self, step: Step) -> None:
        # The mark comes first: what follows must not count as part of the step.
        self.window.mark()
        self.worker.own_work.step_done()
        self.timed.append(step)
        self._samples += step.samples
        rank_phase.step(step.index + 1 - self.warmup, self._samples)
        if step.index + self.worker.stride >= self._end:
            self._close()  # [1]

    def _open(self) -> None:
        self.worker.align()
        rank_phase.enter("timed steps", self.steps)
        self.window.open()
        self.worker.own_work.restart()

    def _close(self) -> Timing:
        """Closes the window the first time, and gives that time's figures ever after."""
        self._timing = self._timing or self.window.close()
        return self._timing


def _report(worker: Worker, run: _TimedRun, timing: Timing, suspended_s: float) -> RankReport:
    return RankReport(
        rank=worker.place.rank,
        window_start_s=timing.start_s,
        window_end_s=timing.end_s,
        step_index=tuple(step.index - run.warmup for step in run.timed),
        step_end_s=timing.step_ends_s,
        step_samples=tuple(step.samples for step in run.timed),
        own_work_s=worker.own_work.seconds(),
        sample=worker.sample,
        samples_per_update=worker.samples_per_update,
        page_faults=timing.page_faults,
        loss=_finite([float(value) for value in run.losses]),
        validation=worker.validation(),
        data=worker.data_facts(),
        environment=environment(worker.place),
        metrics={**timing.peaks, **worker.metrics()},
        details=worker.details(),
        pipeline=worker.pipeline_facts(),
        fingerprint=worker.fingerprint(),
        suspended_s=suspended_s,
    )


def _worker(place: Place, request: RunRequest) -> Worker:
    group.take_place(place)
    if place.device.startswith("cuda"):
        set_matmul_precision(request.case.precision)
    module, _, name = request.worker.partition(":")
    kind: type[Worker] = getattr(importlib.import_module(module), name)
    worker = kind(place, request)
    _KEPT.append(worker)
    return worker


def _finite(losses: list[float]) -> tuple[float, ...]:
    for index, value in enumerate(losses):
        if not math.isfinite(value):
            raise WrongResult(
                f"the loss of step {index} is {value}: the run diverged, so its speed means"
                " nothing; lower the learning rate or check the model",
                step=index,
            )
    return tuple(losses)
