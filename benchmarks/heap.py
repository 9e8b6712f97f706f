"""Page faults of ranks with the heap that keeps freed memory (controller/server_environment.py),
and with the C library's own.

    python -m benchmarks.heap [--launches 8] [--model resnet18] [--steps 4]

`single`, training. Page faults are counts, which other work on the machine hardly changes: those of
a fresh rank up to the end of its first step, and those of a step in the timed window. Each setting
has a fork server of its own; launches are interleaved.
"""

import argparse
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller import server_environment
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.worker import Step

FIRST = "faults_to_first_step"


class Counting(SingleWorker):
    """Counts the page faults of the rank up to the end of its first step."""

    _first = 0

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run."""
        for step in super().run(steps):
            self._first = self._first or resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            yield step

    def details(self) -> dict[str, object]:
        """With that count."""
        return {**super().details(), FIRST: self._first}


def launched(server: ForkServer, model: str, steps: int) -> RankReport:
    """A launch in a fresh rank."""
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=600)
    case = Case("single", model, 1, "train", batch_size=32)
    target = Catalog().model(model)
    request = RunRequest(case, "benchmarks.heap:Counting", target, steps=steps, warmup=3)
    reports: list[RankReport] = ranks.launch(MEASURE, request)
    return reports[0]


def main() -> None:
    """Prints the counts of every launch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=8)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--steps", type=int, default=4)
    settings = parser.parse_args()
    with ExitStack() as stack:
        servers = {"keeps freed memory": stack.enter_context(ForkServer())}
        with patch.dict(server_environment.DEFAULTS, clear=True):
            servers["the C library's own"] = stack.enter_context(ForkServer())
            servers["the C library's own"].start()
        reports: dict[str, list[RankReport]] = {name: [] for name in servers}
        for _ in range(settings.launches):
            for name, server in servers.items():
                reports[name].append(launched(server, settings.model, settings.steps))
    for name, launches in reports.items():
        first = sorted(int(str(each.details[FIRST])) for each in launches)
        per_step = sorted(round(each.page_faults / settings.steps) for each in launches)
        print(f"{name}: to the end of the first step {first}; a step in the window {per_step}")


if __name__ == "__main__":
    main()
