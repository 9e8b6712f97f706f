"""What a night on which the machine was slow costs later verdicts, on simulated sessions: how often
a case is called slower where nothing changed, and where it is 6% slower.

    python -m benchmarks.slow_nights [--histories 3000]

Twelve stored sessions of three launches; launches and sessions of the case differ by 0.5% each, and
so does the machine, whose yardstick differs by another 0.3%. One session in twelve ran while the
machine was 12% slower, of which the case loses 1.5 times as much. Judged at a false-alarm rate of
0.1%: by all sessions; without those that results/statistics/other_speeds.py leaves out; and had no
night been slow.

Half a minute on a quiet core. Fails if more is called where nothing changed than the rate and its
counting error allow, or if leaving sessions out finds less than nine tenths of what is found had no
night been slow.
"""

import argparse
import math
import random
import sys
from collections.abc import Sequence

from pytest_dnnbench.results.statistics.decision import decide
from pytest_dnnbench.results.statistics.other_speeds import other_speeds

SESSIONS, LAUNCHES, ALPHA = 12, 3, 1e-3
SD, YARDSTICK_SD = 0.005, 0.003
SLOW, CASE_LOSES, HOW_OFTEN = 0.12, 1.5, 1 / 12

Sessions = list[list[float]]


def main() -> int:
    """Prints a line per change; 1 if a mark is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--histories", type=int, default=3000)
    count = parser.parse_args().histories
    allowed = ALPHA + 3 * math.sqrt(ALPHA / count)
    missed = False
    for change in (0.0, -0.06):
        everything, usual, undisturbed = called(change, count)
        print(
            f"{change:+.0%}: called by all sessions {everything:.1%}, without those at another"
            f" speed {usual:.1%}, had no night been slow {undisturbed:.1%}",
            flush=True,
        )
        missed |= usual > allowed if not change else usual < 0.9 * undisturbed
    return int(missed)


def called(change: float, count: int) -> tuple[float, float, float]:
    """The shares of histories after which a case that changed so much is called slower."""
    rng, totals = random.Random(5), [0, 0, 0]
    for _ in range(count):
        slow, usual, undisturbed = history(rng)
        level = 100 * (1 + change) * (1 + rng.gauss(0, SD)) * (1 + rng.gauss(0, SD))
        now = [level * (1 + rng.gauss(0, SD)) for _ in range(LAUNCHES)]
        for number, sessions in enumerate((slow, usual, undisturbed)):
            totals[number] += is_called(now, sessions)
    everything, without, none_slow = (total / count for total in totals)
    return everything, without, none_slow


def history(rng: random.Random) -> tuple[Sessions, Sessions, Sessions]:
    """The launches of each session: as they were stored, those at the machine's usual speed, and as
    they would be had the machine never been slow."""
    stored: Sessions = []
    undisturbed: Sessions = []
    yardsticks = []
    for _ in range(SESSIONS):
        slow = SLOW if rng.random() < HOW_OFTEN else 0.0
        machine = 1 + rng.gauss(0, SD)
        level = 100 * machine * (1 + rng.gauss(0, SD))
        launches = [level * (1 + rng.gauss(0, SD)) for _ in range(LAUNCHES)]
        undisturbed.append(launches)
        stored.append([value / (1 + CASE_LOSES * slow) for value in launches])
        yardsticks.append(0.002 * (1 + slow) / machine * (1 + rng.gauss(0, YARDSTICK_SD)))
    odd = other_speeds(yardsticks)
    usual = [launches for place, launches in enumerate(stored) if place not in odd]
    return stored, usual, undisturbed


def is_called(now: Sequence[float], sessions: Sessions) -> bool:
    """Whether the throughput is worse than its limit of 3%."""
    return decide(now, sessions, better="higher", limit=0.03, alpha=ALPHA).status == "regressed"


if __name__ == "__main__":
    sys.exit(main())
