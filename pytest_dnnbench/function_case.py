"""A timed function as a case: which function runs on how many ranks, with which arguments. What a
Case (case.py) is for a step of training, without model, batch and phase. No torch here."""

import math
from dataclasses import dataclass, field

from pytest_dnnbench.case import DEVICES, Case, Scalar
from pytest_dnnbench.collectives import bus_factor
from pytest_dnnbench.errors import UsageError

GROUPS = ("torch", "horovod")
"""The libraries whose group of ranks a function can run in."""


@dataclass(frozen=True, slots=True)
class FunctionCase:
    """What one test case measures: the steps of a user's function.

    `function` is "module:name", called on each rank with `arguments`; what it returns is the step.
    `framework` is the library whose group the ranks join, of GROUPS. `gpus` counts ranks. `check`
    is the "module:name" that checks the step before it is timed, empty without one. `collective` is
    of collectives.COLLECTIVES for a function that has bandwidths, else empty. Raises UsageError for
    a value that no case can have.
    """

    function: str
    framework: str
    gpus: int
    arguments: dict[str, Scalar] = field(default_factory=dict)
    check: str = ""
    collective: str = ""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("framework", self.framework, GROUPS),
            ("device", self.device, DEVICES),
        ):
            if value not in choices:
                raise UsageError(f"{name} {value!r} is unknown: choose from {', '.join(choices)}")
        if self.gpus < 1:
            raise UsageError(f"gpus is {self.gpus}: it must be at least 1")
        if self.collective:
            bus_factor(self.collective, self.gpus)
        for name, argument in self.arguments.items():
            _check_argument(name, argument)

    @property
    def name(self) -> str:
        """The function's own name, without its module."""
        return self.function.rpartition(":")[2]

    @property
    def id(self) -> str:
        """The case in messages: `torch-AllReduce-2gpu`."""
        return f"{self.framework}-{self.name}-{self.gpus}gpu"

    @property
    def label(self) -> str:
        """The case with its arguments: `torch-AllReduce-2gpu (size=1024)`."""
        return f"{self.id} ({self.arguments_text})" if self.arguments else self.id

    @property
    def arguments_text(self) -> str:
        """As in `size=1024, dtype=bfloat16`."""
        return ", ".join(f"{name}={value}" for name, value in self.arguments.items())

    def has_phase(self, phases: tuple[str, ...]) -> bool:
        """A function has no phase: a metric of any phase may be its."""
        return True


MeasuredCase = Case | FunctionCase
"""Whatever a test can measure."""


def _check_argument(name: str, argument: object) -> None:
    # Exactly these types: an argument is compared with the one of an earlier session, from a file.
    if type(argument) not in (str, int, float, bool):
        raise UsageError(
            f"argument {name!r} is a {type(argument).__name__}: arguments go on record and are"
            " compared, so give text, numbers or truth values, and let the function make the rest"
        )
    if isinstance(argument, float) and not math.isfinite(argument):
        raise UsageError(f"argument {name!r} is {argument!r}: give a finite number")
