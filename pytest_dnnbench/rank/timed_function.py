"""A user's function on one rank, as the timed run steps through it.

    function(**arguments) ──> step          untimed: makes what the step needs
    check(step)                             untimed, in ranks of its own: raises if that is wrong
    step(), step(), ...                     warmed up and timed

A step returns None, then the job's steps are counted; or a positive whole number, the units of work
that this rank did in it. A collective's number is its size, the same on every rank.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pytest_dnnbench.collectives import bus_factor
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import Correctness, FunctionRequest, Place, Sample
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.entry import resolve
from pytest_dnnbench.rank.worker import Step, Stepper
from pytest_dnnbench.rank.workloads.image_models import seed


class Group(Protocol):
    """The group of ranks that a function runs in."""

    def join(self, place: Place) -> None:
        """Joins the other ranks."""

    def align(self) -> None:
        """Waits for all ranks."""

    def leave(self) -> None:
        """Leaves the other ranks."""


class TorchGroup:
    """torch.distributed's process group."""

    def join(self, place: Place) -> None:
        """As Group.join."""
        group.join(place)

    def align(self) -> None:
        """As Group.align."""
        group.meet()

    def leave(self) -> None:
        """As Group.leave."""
        group.leave()


class HorovodGroup:
    """Horovod's group, with its core's own settings."""

    def __init__(self) -> None:
        # Not above: Horovod need not be installed, and its import takes a while.
        from pytest_dnnbench.rank.frameworks import horovod

        self._horovod = horovod

    def join(self, place: Place) -> None:
        """As Group.join."""
        self._horovod.join(place, {})

    def align(self) -> None:
        """As Group.align."""
        self._horovod.align()

    def leave(self) -> None:
        """As Group.leave."""
        self._horovod.leave()


_GROUPS: dict[str, Callable[[], Group]] = {"torch": TorchGroup, "horovod": HorovodGroup}


class FunctionStepper(Stepper):
    """One rank's part of a timed function."""

    request: FunctionRequest

    def __init__(self, place: Place, request: FunctionRequest) -> None:
        super().__init__(place, request)
        self.case = request.case
        self.group = _GROUPS[self.case.framework]()
        self._units: type[None] | type[int] | None = None
        """What the first step returned: nothing, or a number."""
        self._size = 0

    def connect(self) -> None:
        """As Stepper.connect: the group that the case names."""
        self.group.join(self.place)

    def build(self) -> None:
        """As Stepper.build: calls the function, which returns the step. Raises UsageError for
        arguments that it does not take and for what is no step."""
        seed(self.case.seed + self.place.rank)
        function, arguments = resolve(self.request.function), dict[str, Any](self.case.arguments)
        try:
            parameters = inspect.signature(function).parameters
            if "place" in parameters and "place" not in arguments:
                arguments["place"] = self.place
            inspect.signature(function).bind(**arguments)
        except (TypeError, ValueError) as error:  # a ValueError of what has no signature
            raise UsageError(
                f"{self.case.function} does not take the arguments ({self.case.arguments_text}):"
                f" {error}"
            ) from None
        step = function(**arguments)
        if not callable(step):
            raise UsageError(
                f"{self.case.function} returned a {type(step).__name__}: let it return the step, a"
                " function without parameters; what it does itself is not timed"
            )
        self.step: Callable[[], Any] = step

    def run(self, steps: int) -> Iterator[Step]:
        """As Stepper.run; every rank completes every step."""
        for index in range(steps):
            yield Step(index, self._counted(self.step()), None)

    def prove(self) -> Correctness:
        """As Stepper.prove: lets the user's check look at a step of its own. Raises WrongResult
        when it says that the step is wrong."""
        self.build()
        assert self.request.check is not None, "without a check there is no proof"
        try:
            resolve(self.request.check)(self.step)
        except AssertionError as error:
            # Raised, not returned: other ranks may be inside a collective, waiting for this one.
            raise WrongResult(
                f"{self.case.label}: the step is wrong, so it was not timed: {self.case.check} says"
                f" {_said(error)}"
            ) from error
        return Correctness({}, {}, checked=(self.case.check,))

    def align(self) -> None:
        """As Stepper.align."""
        self.group.align()

    def close(self) -> None:
        """As Stepper.close."""
        self.group.leave()

    @property
    def samples_per_update(self) -> int:
        """As Stepper.samples_per_update: of a collective its size, else 0. Nothing is updated."""
        return self._size if self.case.collective else 0

    @property
    def sample(self) -> Sample:
        """As Stepper.sample: what the numbers of the steps count."""
        if self._units is type(None):
            return "step"
        return "B" if self.case.collective else self.request.unit

    @property
    def shared_samples(self) -> bool:
        """As Stepper.shared_samples: steps, and the size of a collective, are the job's."""
        return self._units is type(None) or bool(self.case.collective)

    @property
    def bus_factor(self) -> float | None:
        """As Stepper.bus_factor."""
        collective = self.case.collective
        return bus_factor(collective, self.case.gpus) if collective else None

    @property
    def has_stages(self) -> bool:
        """As Stepper.has_stages: nothing is known of a pipeline."""
        return False

    @property
    def most_steps(self) -> int | None:
        """As Stepper.most_steps."""
        return self.request.most_steps

    def _counted(self, returned: Any) -> int:
        """The samples of a step, from what it returned. Raises UsageError for what counts none."""
        if self._units is None and (returned is None or type(returned) is int):
            self._units, self._size = type(returned), returned or 0
            if returned is None and self.case.collective:
                raise UsageError(
                    f"a step of {self.case.function} returned nothing: a {self.case.collective} has"
                    " a bandwidth, so let its step return its size in bytes"
                )
        if type(returned) is not self._units or (returned is not None and returned < 1):
            raise UsageError(
                f"a step of {self.case.function} returned {returned!r}: let every step return"
                " nothing, or every step a positive whole number, its units of work"
            )
        return 1 if returned is None else int(returned)


def _said(error: AssertionError) -> str:
    """What a failed check says: its message, or the line that failed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return str(error) or f"`{last.line}` (line {last.lineno})"
