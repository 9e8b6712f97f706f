"""The machine's own speed, measured apart from every framework."""

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.run import MEASURE_MACHINE


def test_the_yardstick_is_a_time_on_every_thread_at_once(server: ForkServer) -> None:
    for threads in (1, 2):
        (seconds,) = Ranks(server, ["cpu"], threads=threads, timeout_s=60).launch(MEASURE_MACHINE)
        assert 0 < seconds < 60
