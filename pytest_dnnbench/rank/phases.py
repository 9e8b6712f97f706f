"""Where this rank is, said on its board (board.py). Frameworks may say more; without a board, saying costs nothing."""

from pytest_dnnbench.board import Board

_BOARDS: list[Board] = []
"""This process's board, once it is a rank."""


def say_on(board: Board) -> None:
    """From now on phases are said there."""
    _BOARDS[:] = [board]


def enter(phase: str, steps: int = 0) -> None:
    """A phase of board.PHASES begins, of so many steps."""
    for board in _BOARDS:
        board.enter(phase, steps)


def step(done: int, images: int = 0) -> None:
    """So many steps of the phase are done; `images` counts those that this rank completed in it."""
    for board in _BOARDS:
        board.step(done, images)
