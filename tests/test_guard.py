"""What the guard against leaks looks for is there to be found while it exists."""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.rank_status import RankStatus
from tests.patience import HANG_S
from tests.processes import ranks_of
from tests.sockets import listening


def run_until(file: str) -> None:
    """On ranks: until this file is there."""
    while not os.path.exists(file):
        time.sleep(0.02)


class Display:
    """Lets the ranks end once two of them run."""

    def __init__(self, end: Path) -> None:
        self.end = end

    def show(self, statuses: Sequence[RankStatus], /) -> None:
        """Called by the controller."""
        if len(ranks_of(os.getpid())) == 2:
            self.end.touch()

    def clear(self) -> None:
        """Called by the controller."""


def test_running_ranks_are_found_and_none_after_their_launch(
    server: ForkServer, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S, progress=Display(end))
    ranks.run(run_until, str(end))
    assert end.exists()
    assert ranks_of(os.getpid()) == []


def test_a_listening_port_is_found_while_it_is_open() -> None:
    before = listening(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (address,) = set(listening(os.getpid())) - set(before)
        assert address == f"0100007F:{listener.getsockname()[1]:04X}"
    assert listening(os.getpid()) == before
