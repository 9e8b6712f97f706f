"""What the guard against leaks looks for is there to be found while it exists."""

import os
import socket
import time
from collections.abc import Sequence

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import PROGRESS_S, Ranks
from pytest_dnnbench.rank_status import RankStatus
from tests.processes import ranks_of
from tests.sockets import listening


def run_for_two_looks() -> None:
    """On ranks: long enough to be displayed."""
    time.sleep(2.5 * PROGRESS_S)


class Display:
    """Notes how many ranks run while a launch lasts."""

    def __init__(self) -> None:
        self.most = 0

    def show(self, statuses: Sequence[RankStatus], /) -> None:
        """Called by the controller."""
        self.most = max(self.most, len(ranks_of(os.getpid())))

    def clear(self) -> None:
        """Called by the controller."""


def test_running_ranks_are_found_and_none_after_their_launch(server: ForkServer) -> None:
    display = Display()
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=60, progress=display)
    ranks.run(run_for_two_looks)
    assert display.most == 2
    assert ranks_of(os.getpid()) == []


def test_a_listening_port_is_found_while_it_is_open() -> None:
    before = listening(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (address,) = set(listening(os.getpid())) - set(before)
        assert address == f"0100007F:{listener.getsockname()[1]:04X}"
    assert listening(os.getpid()) == before
