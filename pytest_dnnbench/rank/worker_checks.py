"""What a framework's worker gives to the timed run, held against what it promises: its class, its
steps, their pace, its figures.

Not here: whether its steps are right (proof/), and what the controller makes of impossible times.
"""

import importlib
import numbers
from collections.abc import Iterator, Mapping

from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.rank.worker import Step, Stepper

AHEAD = 100
"""How many times shorter a timed step is at most than one of the last warm-up, by which nothing but
steps that ran before they were asked for can be explained: a machine that does other work makes
steps ten or twenty times as long, and no step can hide from its own run, which includes it."""


def worker_kind(path: str) -> type[Stepper]:
    """The class that a framework's row names. Raises UsageError for anything else."""
    module, _, name = path.partition(":")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Stepper)):
        raise UsageError(
            f"{path!r}, which the framework's row names as its worker, is {kind!r}: let it be a"
            " subclass of pytest_dnnbench.Worker"
        )
    return kind


def begun(worker: Stepper, steps: int) -> Iterator[Step]:
    """A run of the worker. Raises UsageError for one that is over before its first step is asked
    for, as a list is: the clock starts between two steps, and would measure nothing."""
    run = worker.run(steps)
    if not isinstance(run, Iterator):
        raise UsageError(
            f"{type(worker).__name__}.run returned a {type(run).__name__}: let it yield each step"
            " when it has completed it, for the clock is read between them"
        )
    return run


def check_pace(step_s: float, warm_step_s: float | None) -> None:
    """Raises WrongResult for timed steps whose work was done before the window. `warm_step_s`: of
    a step in the last stretch of the warm-up, a whole run from call to end; None without one."""
    if warm_step_s is not None and step_s * AHEAD < warm_step_s:
        raise WrongResult(
            f"a timed step took {step_s:.3g} s, and one of the warm-up, which is timed as a whole"
            f" run, {warm_step_s:.3g} s: the timed steps ran before they were asked for; let the"
            " worker's run do each step when it is asked for the next one"
        )


def figures(worker: Stepper) -> dict[str, float]:
    """What the worker measured beside time. Raises UsageError for what is no dict of numbers."""
    metrics: object = worker.metrics()
    if isinstance(metrics, Mapping) and all(
        isinstance(name, str) and isinstance(value, numbers.Real) for name, value in metrics.items()
    ):
        return dict(metrics)
    raise UsageError(
        f"{type(worker).__name__}.metrics returned {metrics!r}: let it return a dict of a metric's"
        " name to a number"
    )
