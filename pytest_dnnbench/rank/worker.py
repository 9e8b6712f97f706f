"""The seam between the timed run, which measures, and what runs the steps on a rank.

Stepper ──> Worker              one rank's part of a framework: steps of training
        └─> FunctionStepper     one rank's part of a timed function (timed_function.py)
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pytest_dnnbench.messages import (
    Correctness,
    PipelineFacts,
    Place,
    RunRequest,
    Sample,
    TimedRequest,
)
from pytest_dnnbench.rank.own_work import OwnWork
from pytest_dnnbench.rank.stopwatch import stopwatch


@dataclass(frozen=True, slots=True)
class Step:
    """One step that this rank has completed.

    index      counts the steps of the whole job from 0, warm-up included. A data-parallel rank
               completes every step, a rank of a pipeline those with minibatches that it ran.
    samples    this rank's part of the job's samples: its share of a data-parallel batch; on a
               pipeline's last stage all samples of the minibatch, on its other stages 0
    loss       a detached scalar, or None on a rank that sees no loss
    """

    index: int
    samples: int
    loss: torch.Tensor | None


class Stepper(ABC):
    """What runs the steps on one rank. The timed run calls connect, build, run and close in this
    order; the proof calls connect, prove and close."""

    request: TimedRequest

    def __init__(self, place: Place, request: TimedRequest) -> None:
        self.place = place
        self.request = request
        self.device = torch.device(place.device)
        self.own_work = OwnWork(stopwatch(self.device))
        self.timed = range(0)
        """The indices of the timed steps in the last run; `metrics` is about them."""

    @abstractmethod
    def connect(self) -> None:
        """Joins the other ranks of the launch."""

    @abstractmethod
    def build(self) -> None:
        """Makes what a step needs, ready to run: of training the model and its optimiser on the
        device, in the case's precision."""

    @abstractmethod
    def run(self, steps: int) -> Iterator[Step]:
        """Runs `steps` steps of the whole job, of training in the case's phase, and yields each
        step when this rank has completed it. Each run goes on where the run before ended, with its
        weights and data; the last one is timed.

        Never synchronises the device by itself: the timed run owns the clock. A rank that must wait
        for others in every step may mark when it does not (`own_work`).
        """

    @abstractmethod
    def prove(self) -> Correctness:
        """Compares the step with a reference, of training with a single process. Called instead of
        build and run."""

    @abstractmethod
    def align(self) -> None:
        """Called between warm-up and the timed window. Ranks that step together wait for each other
        here."""

    @property
    @abstractmethod
    def samples_per_update(self) -> int:
        """Samples, over all ranks, that one update of the weights averages over."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the group of ranks. Not called after an error: the rank then reports it and ends
        at once."""

    def recheck(self) -> str | None:
        """What is wrong with what is computed after the timed steps; None where nothing is,
        or where nobody can tell. Called after the timed run, in one launch of a case, on every
        rank."""
        return None

    @property
    def sample(self) -> Sample:
        """What a sample is: "img" (an image), "tok" (a token) or "sample" (anything else); of a
        timed function also "step" or "B" (a byte).

        `Step.samples` counts these, and throughput has the unit img/s, tok/s, sample/s, ...
        """
        return "sample"

    @property
    def shared_samples(self) -> bool:
        """Whether every rank counts the same samples, and the job counts them once."""
        return False

    @property
    def bus_factor(self) -> float | None:
        """Bytes on a link for a byte of samples, of a collective (collectives.py)."""
        return None

    @property
    def has_stages(self) -> bool:
        """Whether sending to one rank, and receiving from it, is how a stage of a pipeline waits
        for another; else it is communication like any other."""
        return True

    @property
    def most_steps(self) -> int | None:
        """The most steps of a window whose length is given in seconds; None: no limit."""
        return None

    @property
    def stride(self) -> int:
        """The difference of the indices of two successive steps of this rank: above 1 where
        replicas take turns."""
        return 1

    @property
    def turn(self) -> int:
        """The steps after which the pattern of the job's steps repeats, the same on every rank.

        Warm-up and timed steps are rounded up to whole turns: a window that held one step of two
        replicas more than of the third would give the third's time to nobody.
        """
        return self.stride

    @property
    def lead_in(self) -> int:
        """Steps at the beginning of each run before steps come at a steady pace: those that fill a
        pipeline. Never timed, the same on every rank."""
        return 0

    @property
    def run_on(self) -> int:
        """Steps to run after the timed ones, so that those are not timed in an emptying
        pipeline."""
        return 0

    def fingerprint(self) -> str:
        """A fingerprint of the weights that all ranks must hold alike after the run; empty where
        each rank has weights of its own.

        Called after the timed window. Ranks with different fingerprints have not trained the same
        model.
        """
        return ""

    def validation(self) -> tuple[int, int] | None:
        """Right answers and samples of this rank's share of the validation set; None without real
        data."""
        return None

    def data_facts(self) -> dict[str, str | int | float | bool]:
        """Facts about this rank's data, for the record."""
        return {}

    def metrics(self) -> dict[str, float]:
        """The framework's own metrics of the timed steps, by the name of their row in metrics.py.
        Every rank reports the same names."""
        return {}

    def details(self) -> dict[str, object]:
        """The framework's own facts for the record, such as the options in force."""
        return {}

    def pipeline_facts(self) -> PipelineFacts | None:
        """Plan and memory of this rank's stage; None where the framework is no pipeline."""
        return None


class Worker(Stepper):
    """One rank's part of a framework."""

    request: RunRequest

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        self.case = request.case
