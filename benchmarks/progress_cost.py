"""What live progress costs the measured ranks: throughput with and without the status line, in
interleaved pairs.

    python -m benchmarks.progress_cost [--pairs 10] [--model resnet18] [--batch-size 32]
                                       [--steps 20] [--ranks 2]

The line is rewritten as in a session, on a pseudo-terminal. On / off should be 1.00 within the
noise of the pairs. A pair of the default size takes about ten seconds on two quiet cores. Two more
figures hardly depend on other load: what it costs a rank to report a step, and the CPU time that
the controller takes from the ranks' cores per second of a launch, its start and end included.
"""

import argparse
import os
import pty
import threading
import time
import timeit
from collections.abc import Sequence

from benchmarks.ddp import ours
from benchmarks.pairs import compare
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.rank_status import RankStatus, StatusPage
from pytest_dnnbench.report.progress import StatusLine, status, where
from pytest_dnnbench.results.records.measurement import Launch

CALLS = 100_000


class Display:
    """The status line of a session, on a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self.drawn = 0
        self._line = StatusLine(lambda text: self._write(descriptor, text))

    def show(self, statuses: Sequence[RankStatus]) -> None:
        """As ranks.RankDisplay.show."""
        self._line.draw(
            status(
                "test_train[ddp-resnet18-2gpu]",
                [*where(statuses), f"{time.monotonic():.1f} s"],
                79,
            )
        )

    def clear(self) -> None:
        """As ranks.RankDisplay.clear."""
        self._line.erase()

    def _write(self, descriptor: int, text: str) -> None:
        os.write(descriptor, text.encode())
        self.drawn += 1


def step_ns() -> float:
    """What it costs a rank to report a step: the best of five."""
    page, descriptor = StatusPage.make()
    os.close(descriptor)
    page.enter("timed steps", 10)
    return 1e9 * min(timeit.repeat(lambda: page.step(3, 96), number=CALLS, repeat=5)) / CALLS


class Side:
    """Launches of one side: their throughput, and what they cost the controller."""

    def __init__(self, ranks: Ranks, settings: argparse.Namespace) -> None:
        self._ranks, self._settings = ranks, settings
        self._cpu_s = self._wall_s = 0.0

    def img_s(self) -> float:
        """Throughput of one launch."""
        cpu, wall = time.process_time(), time.monotonic()
        launch = Launch(tuple(ours(self._ranks, self._settings, self._settings.steps, 3)))
        self._cpu_s += time.process_time() - cpu
        self._wall_s += time.monotonic() - wall
        return launch.throughput

    @property
    def cpu_ms_per_s(self) -> float:
        """CPU time of the controller per second of all launches."""
        return 1e3 * self._cpu_s / self._wall_s


def _swallow(descriptor: int) -> None:
    while os.read(descriptor, 1 << 16):
        pass


def main() -> None:
    """Prints every pair and the median ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    settings = parser.parse_args()
    print(f"reporting a step costs a rank {step_ns():.0f} ns")
    reader, terminal = pty.openpty()
    threading.Thread(target=_swallow, args=(reader,), daemon=True).start()
    display = Display(terminal)
    with ForkServer() as server:
        server.wait_ready()
        threads = max(1, len(os.sched_getaffinity(0)) // settings.ranks)
        devices = ["cpu"] * settings.ranks
        off = Side(Ranks(server, devices, threads=threads, timeout_s=600), settings)
        on = Side(
            Ranks(server, devices, threads=threads, timeout_s=600, progress=display), settings
        )
        compare(
            f"throughput of ddp {settings.model} on {settings.ranks} ranks, progress on / off",
            on.img_s,
            off.img_s,
            settings.pairs,
            "img/s",
        )
    print(f"the line was written {display.drawn} times")
    print(
        f"controller's CPU time: {on.cpu_ms_per_s:.2f} ms/s with it,"
        f" {off.cpu_ms_per_s:.2f} ms/s without"
    )


if __name__ == "__main__":
    main()
