"""Where this rank is, said on its board (board.py). Frameworks may say more; without a board,
saying costs nothing."""

from pytest_dnnbench.rank_status import StatusPage

_PAGES: list[StatusPage] = []
"""This process's board, once it is a rank."""


def say_on(page: StatusPage) -> None:
    """From now on phases are said there."""
    _PAGES[:] = [page]


def enter(phase: str, steps: int = 0) -> None:
    """A phase of board.PHASES begins, of so many steps."""
    for page in _PAGES:
        page.enter(phase, steps)


def step(done: int, samples: int = 0) -> None:
    """So many steps of the phase are done; `samples` counts those that this rank completed in
    it."""
    for page in _PAGES:
        page.step(done, samples)
