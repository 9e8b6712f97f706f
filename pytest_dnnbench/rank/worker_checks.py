"""What a framework's worker gives to the timed run, held against what it promises: its class, its
steps, their pace, its figures.

Not here: whether its steps are right (proof/), and what the controller makes of impossible times.
"""

import importlib
import numbers
from collections.abc import Iterator, Mapping, Sequence

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.worker import Step, Stepper

AHEAD = 100
"""How many times shorter than one of the last warm-up a timed step is that has to be looked into:
it may have run before it was asked for."""

PACE_RUNS, PACE_TURNS = 5, 8
"""How many pairs of runs look into it, a short one and one of so many turns more."""


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


def seems_ahead(step_s: float, warm_step_s: float) -> bool:
    """Whether the work of timed steps may have been done before the window, by the seconds of one
    and of a step in the last stretch of the warm-up, a whole run from call to end."""
    return step_s * AHEAD < warm_step_s


def ran_ahead(short_s: Sequence[Sequence[float]], long_s: Sequence[Sequence[float]]) -> bool:
    """Whether the work of a run was done when it gave its first step, by runs of two lengths: of
    each run the moments when its steps were complete, in seconds since its call.

    The first step then comes the later the longer the run is. That of a run that begins with a
    set-up comes as late in any. How late it came in the slowest short run is left out: another
    process may have had its core.
    """
    earliest_s, *_, latest_s = sorted(ends_s[0] for ends_s in short_s)[:-1]
    later_s = min(ends_s[0] for ends_s in long_s) - latest_s
    more = len(long_s[0]) - len(short_s[0])
    between_s = min((ends_s[-1] - ends_s[0]) / max(1, len(ends_s) - 1) for ends_s in long_s)
    return more > 0 and later_s > max(latest_s - earliest_s, AHEAD * between_s * more)


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
