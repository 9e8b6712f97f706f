"""Reports the rank's phase and its steps on its status page (rank_status.py).

A framework may report more than the timed run does. In a process without a status page, as in a
test that calls rank code directly, reporting does nothing.
"""

from pytest_dnnbench.rank_status import StatusPage

_PAGES: list[StatusPage] = []
"""This process's status page, once it is a rank; empty before."""


def report_to(page: StatusPage) -> None:
    """Reports on this page from now on."""
    _PAGES[:] = [page]


def enter(rank_phase: str, steps: int = 0) -> None:
    """Reports that a phase of RANK_PHASES begins, with its number of steps."""
    for page in _PAGES:
        page.enter(rank_phase, steps)


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
