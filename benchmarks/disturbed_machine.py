"""Two sides in pairs on a machine that is disturbed on purpose, beside a stored baseline: real
launches, with 5% more work planted in side B and with none.

    python -m benchmarks.disturbed_machine [--short]

The disturbance goes on from the first stored launch to the last pair:

    none              only what else runs on the machine
    comes and goes    a busy loop that is there for 1 to 4 seconds and away for as long
    drift             a busy loop that takes more and more of a core, from nothing to all of it

A launch is one rank that multiplies matrices in one thread. Stored: three sessions of three
launches, five seconds apart; then a session of three, and three fresh ones for a suspect. Pairs: up
to 16 in the order A B B A, as a session has them. Nothing is left out as disturbed, on either side,
and neither yardstick nor leases are used: this is the bare statistics. --short has at most 8 pairs
and takes some 2 minutes on two quiet cores.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import FunctionRequest, RankReport
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.statistics.decision import Decision, confirm, decide
from pytest_dnnbench.results.statistics.paired import PairDecision
from pytest_dnnbench.results.statistics.suite_noise import pool
from pytest_dnnbench.results.verdicts.side_by_side import Compared, Questions

PRODUCTS, MORE = 40, 42
"""Products of a step: side A's, and 5% more."""

STORED, LAUNCHES, APART_S = 3, 3, 5.0
ALPHA, LIMIT = 0.01, 0.03


def none(whole_s: float) -> None:
    """Nothing, until it is ended."""
    while True:
        time.sleep(60)


def comes_and_goes(whole_s: float) -> None:
    """A busy loop with pauses, until it is ended."""
    chance = random.Random(0)
    while True:
        _busy(chance.uniform(1, 4))
        time.sleep(chance.uniform(1, 4))


def drift(whole_s: float) -> None:
    """A busy loop whose share of a core rises to all of it within `whole_s`, until it is ended."""
    begun = time.monotonic()
    while True:
        share = min((time.monotonic() - begun) / whole_s, 1.0)
        _busy(0.1 * share)
        time.sleep(0.1 * (1 - share))


def _busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


DISTURBANCES: dict[str, Callable[[float], None]] = {
    "none": none,
    "comes and goes": comes_and_goes,
    "drift": drift,
}


@contextmanager
def disturbed(disturbance: str, whole_s: float) -> Iterator[None]:
    """Disturbs the machine meanwhile."""
    process = multiprocessing.get_context("spawn").Process(
        target=DISTURBANCES[disturbance], args=(whole_s,), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


@dataclass(frozen=True)
class Machine:
    """Where launches run."""

    server: ForkServer

    def throughput(self, products: int) -> float:
        """Steps per second of a launch whose step has so many products."""
        target = ("benchmarks.products", "Products", None)
        case = FunctionCase("benchmarks.products:Products", "torch", 1, {"products": products})
        request = FunctionRequest(case, target, None, steps=10, warmup=3)
        ranks = Ranks(self.server, ["cpu"], threads=1, timeout_s=120)
        reports: list[RankReport] = ranks.launch(MEASURE, request, returns=RankReport)
        return Launch(tuple(reports)).throughput

    def session(self) -> list[float]:
        """Launches of side A."""
        return [self.throughput(PRODUCTS) for _ in range(LAUNCHES)]

    def judged(self, products: int, history: list[list[float]]) -> Decision:
        """What the stored sessions say of a session, as a session's verdict has it."""
        prior = pool([history])
        first = [self.throughput(products) for _ in range(LAUNCHES)]
        about = {"better": "higher", "limit": LIMIT, "alpha": ALPHA, "prior": prior}
        decision = decide(first, history, **about)  # type: ignore[arg-type] # as named there
        if not decision.suspect:
            return decision
        again = [self.throughput(products) for _ in range(LAUNCHES)]
        return confirm(first, again, history, **about)  # type: ignore[arg-type] # as above

    def compared(self, products: int, most: int) -> PairDecision:
        """What pairs say of side B."""
        questions = Questions(1, {"throughput": Compared(LIMIT)}, most, ALPHA)
        ratios: list[float] = []
        while len(ratios) < most and not questions.is_settled("case"):
            order = (PRODUCTS, products) if len(ratios) % 2 == 0 else (products, PRODUCTS)
            first, second = (self.throughput(each) for each in order)
            ratios.append(second / first if len(ratios) % 2 == 0 else first / second)
            if planned := questions.planned(len(ratios)):
                questions.look(planned, {"case": {"throughput": ratios}})
        return questions.decisions["case"]["throughput"]


def run(machine: Machine, disturbance: str, most: int) -> None:
    """Prints what is said under one disturbance."""
    with disturbed(disturbance, 30.0 + 4 * most):
        history = []
        for _ in range(STORED):
            history.append(machine.session())
            time.sleep(APART_S)
        for products, planted in ((MORE, "-4.8%"), (PRODUCTS, "nothing")):
            said, pairs = machine.judged(products, history), machine.compared(products, most)
            low, high = pairs.interval
            print(
                f"{disturbance:16}{planted:9}stored {said.change:+7.1%} {said.status:11}pairs"
                f" {pairs.change:+7.1%} {pairs.status} ({low:+.1%} to {high:+.1%}; {pairs.pairs})",
                flush=True,
            )


def main() -> int:
    """Prints the findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    most = 8 if parser.parse_args().short else 16
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with ForkServer() as server:
        server.wait_ready()
        for disturbance in DISTURBANCES:
            run(Machine(server), disturbance, most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
