"""The seam between the session, which measures, and a framework, which trains. One Worker is one
rank's part."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pytest_dnnbench.messages import Correctness, PipelineFacts, Place, RunRequest
from pytest_dnnbench.rank.own_work import OwnWork
from pytest_dnnbench.rank.stopwatch import stopwatch


@dataclass(frozen=True, slots=True)
class Step:
    """One step that this rank has completed.

    `index` counts the steps of the whole job from 0, warm-up included; a data-parallel rank
    completes each of them, a pipeline's rank those of the minibatches that came its way. `samples`
    is what this rank adds to the job's samples: its share of a data-parallel batch, all of a
    minibatch on a pipeline's last stage, 0 on other stages. `loss` is a detached scalar, or None on
    ranks that see no loss.
    """

    index: int
    samples: int
    loss: torch.Tensor | None


class Worker(ABC):
    """One rank's part of a framework. Called in this order: connect, build, run (or prove),
    close."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        self.place = place
        self.request = request
        self.case = request.case
        self.device = torch.device(place.device)
        self.own_work = OwnWork(stopwatch(self.device))

    @abstractmethod
    def connect(self) -> None:
        """Joins the other ranks of the launch."""

    @abstractmethod
    def build(self) -> None:
        """Makes the model and its optimiser on the device, in the case's precision, ready to
        run."""

    @abstractmethod
    def run(self, steps: int) -> Iterator[Step]:
        """Runs `steps` steps of the whole job in the case's phase and yields each as this rank
        completes it.

        Never synchronises the device on its own account: the session owns the clock. A rank that
        must wait for others in every step may tell when it does not (`own_work`).
        """

    @abstractmethod
    def prove(self) -> Correctness:
        """Holds this framework's step against a single-process reference; called instead of build
        and run."""

    @abstractmethod
    def align(self) -> None:
        """Called between warm-up and the timed window: ranks that step together wait for each other
        here."""

    @property
    @abstractmethod
    def samples_per_update(self) -> int:
        """Images, over all ranks, that one update of the weights averages over."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the group of ranks. Not called after an error: the rank then reports it and ends
        at once."""

    @property
    def stride(self) -> int:
        """By how much the index grows between two steps of this rank: above 1 where replicas take
        turns."""
        return 1

    @property
    def run_on(self) -> int:
        """Steps to run after the timed ones, so that these are not timed in an emptying
        pipeline."""
        return 0

    def fingerprint(self) -> str:
        """Of the weights that every rank must hold alike after the run; empty where a rank has only
        weights of its own.

        Called after the timed window. Ranks whose fingerprints differ have not trained the same
        model.
        """
        return ""

    def validation(self) -> tuple[int, int] | None:
        """Correct and all images of this rank's share of the validation set; None without real
        data."""
        return None

    def data_facts(self) -> dict[str, str | int | float | bool]:
        """What is worth recording about the data that this rank reads."""
        return {}

    def metrics(self) -> dict[str, float]:
        """The framework's own metrics of the timed steps, by their names in metrics.py; the same on
        every rank."""
        return {}

    def details(self) -> dict[str, object]:
        """The framework's own facts for the record, such as options in force."""
        return {}

    def pipeline_facts(self) -> PipelineFacts | None:
        """The plan and this rank's stage; None for a framework that is no pipeline."""
        return None
