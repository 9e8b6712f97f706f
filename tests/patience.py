"""How long a test may wait: longer than anything but a hang takes, and for ranks that hang on
purpose until they do. A machine may be slow, and a process may lose its core for seconds."""

from collections.abc import Callable

from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError, RankHung

HANG_S = 600.0
"""What nothing but a hang takes, on any machine."""

TIME_OUTS_S = (2.0, 6.0, 18.0, 54.0, 162.0, HANG_S)
"""Of launches that hang on purpose, one after the other until the ranks get as far as the hang."""


def failure_at_hang(
    ranks: Ranks, launch: Callable[[], object], is_there: Callable[[RankHung], bool]
) -> DnnbenchError:
    """What a launch fails with whose ranks hang on purpose. It is made again, with a longer
    time-out of `ranks`, while it only says that they have not got as far as the hang."""
    for timeout_s in TIME_OUTS_S:
        ranks.timeout_s = timeout_s
        try:
            launch()
        except RankHung as hung:
            if is_there(hung):
                return hung
        except DnnbenchError as error:
            return error
        else:
            raise AssertionError("the launch did not hang")
    raise AssertionError("the ranks did not get as far as the hang")
