"""Reports the rank's phase and its steps on its status page (rank_status.py).

A framework may report more than the timed run does. In a process without a status page, as in a
test that calls rank code directly, reporting does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic

from pytest_dnnbench.rank_status import StatusPage

_ENTERED: list[tuple[str, int, float]] = []
"""The phases of this process so far, each with its number of steps and the moment it began."""

_PAGES: list[StatusPage] = []
"""This process's status page, once it is a rank; empty before."""


def report_to(page: StatusPage) -> None:
    """Reports on this page from now on."""
    _PAGES[:] = [page]


def enter(rank_phase: str, steps: int = 0) -> None:
    """Reports that a phase of RANK_PHASES begins, with its number of steps."""
    _ENTERED.append((rank_phase, steps, monotonic()))
    for page in _PAGES:
        page.enter(rank_phase, steps)


@contextmanager
def during(rank_phase: str) -> Iterator[None]:
    """A phase in the middle of another one, before the first step of that."""
    around = _ENTERED[-1] if _ENTERED else None
    enter(rank_phase)
    yield
    if around is not None:
        name, steps, _ = around
        enter(name, steps)


def began_s() -> float:
    """When the first phase began, by the monotonic clock; 0 where none has."""
    return _ENTERED[0][2] if _ENTERED else 0.0


def seconds() -> dict[str, float]:
    """The seconds of each phase until now, in the order in which they began."""
    spent: dict[str, float] = {}
    for (name, _, begin_s), (_, _, end_s) in pairwise([*_ENTERED, ("", 0, monotonic())]):
        spent[name] = spent.get(name, 0.0) + end_s - begin_s
    return spent


def timing_begins() -> None:
    """Reports that the timed run begins."""
    for page in _PAGES:
        page.timing_begins()


def timing_ended() -> None:
    """Reports that the timed window has closed."""
    for page in _PAGES:
        page.timing_ended()


def step(done: int, samples: int = 0) -> None:
    """Reports the number of steps done in this phase, and of samples that this rank completed in
    it."""
    for page in _PAGES:
        page.step(done, samples)
