"""What the best rule could detect, beside what ours does: how much of what is missed is the rule's.

    python -m benchmarks.oracle [--sessions 100000]

A case has 1% of noise between launches, K stored sessions of three launches, and six launches now.
Nobody says whether it is calm, so that its sessions differ by nothing beyond launches, or restless,
so that they differ by a given standard deviation. The oracle is told all the rest: the noise of
launches, how restless a restless case is, and that a change is one of 5%. Its rule finds the most
changes in calm cases of all rules that fail as few restless cases in which nothing changed, and
that do not pass a case for being even slower (the lemma of Neyman and Pearson, 1933, for one-sided
limits that may depend on the stored sessions). Other cases of a suite say nothing of this one, so
that holds for a suite of any size in which one case may be restless.

Below that, our own rule in the same worlds, which is told nothing (many_sessions.py).
"""

import argparse
import math
import sys
from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from benchmarks.many_sessions import LAUNCHES, failed
from benchmarks.simulated_sessions import Array, quiet

LAUNCH_SD, EFFECT = 0.01, 0.05
RESTLESS = (0.015, 0.02, 0.03, 0.04, 0.06)
STORED = (2, 3, 5)
RATES = (0.01, 0.02, 0.03)
SUITES = (1, 4, 36)

# Of a false alarm, as a logarithm, and the limits that they may lead to, of logarithms.
PRICES = np.linspace(-15.0, 15.0, 601)
LIMITS = np.linspace(0.0, 0.2, 401)


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=100_000)
    count = parser.parse_args().sessions
    print("Changes of 5% found by the oracle, in percent, where so many restless cases may fail:")
    print("stored  restless by" + "".join(f"{rate:>8.0%}" for rate in RATES))
    for stored in STORED:
        for restless_sd in RESTLESS:
            shares = oracle(stored, restless_sd, RATES, count)
            texts = "".join(f"{100 * share:8.0f}" for share in shares)
            print(f"{stored:6} {restless_sd:12.1%}{texts}", flush=True)
    print("\nOurs: found, and sessions in which a case failed, one of them being restless:")
    print("stored   cases   found" + "".join(f"{sd:>8.1%}" for sd in RESTLESS))
    for stored in STORED:
        for cases in SUITES:
            power, alarms = ours(stored, cases, count // 50)
            texts = "".join(f"{100 * rate:8.1f}" for rate in alarms)
            print(f"{stored:6} {cases:7} {100 * power:7.0f}{texts}", flush=True)
    return 0


def oracle(
    stored: int, restless_sd: float, rates: tuple[float, ...], count: int, seed: int = 0
) -> list[float]:
    """The share of changes of EFFECT in calm cases that the oracle finds, where at most each of
    `rates` of the unchanged restless cases may fail: from `count` simulated cases of either."""
    shift = math.log1p(EFFECT)
    calm, restless = (_variances(stored, sd) for sd in (0.0, restless_sd))
    rng = np.random.default_rng([seed, stored])
    changed = rng.standard_normal((count, stored + 1)) * np.sqrt(calm)
    changed[:, -1] -= shift
    unchanged = rng.standard_normal((count, stored + 1)) * np.sqrt(restless)
    scores = [_scores(means, calm, restless, shift) for means in (changed, unchanged)]
    limits = np.quantile(scores[1], [1 - rate for rate in rates])
    return [float((scores[0] > limit).mean()) for limit in limits]


def _variances(stored: int, session_sd: float) -> Array:
    """Of the mean of each session's launches, the present one last: under normal noise that says
    all there is to know of its level."""
    launches = np.array([LAUNCHES] * stored + [2 * LAUNCHES])
    return np.asarray(LAUNCH_SD**2 / launches + session_sd**2)


def _scores(means: Array, calm: Array, restless: Array, shift: float) -> Array:
    """How readily the oracle fails each case, cases x sessions: what the stored sessions say for a
    calm one, and the price below which its difference is beyond the limit."""
    past = means[:, :-1]
    squares = ((past - past.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    free = past.shape[1] - 1
    for_calm = squares * (1 / restless[0] - 1 / calm[0]) / 2
    for_calm += free / 2 * math.log(restless[0] / calm[0])
    worse = past.mean(axis=1) - means[:, -1]
    errors = [math.sqrt(each[0] / (free + 1) + each[-1]) for each in (calm, restless)]
    limits = np.array([_limit(price, errors[0], errors[1], shift) for price in PRICES])
    # A limit rises with the price, so that the last one below the difference is the highest price.
    highest = np.searchsorted(limits, worse) - 1
    return np.asarray(np.where(highest >= 0, for_calm + PRICES[highest], -np.inf))


def _limit(price: float, calm: float, restless: float, shift: float) -> float:
    """The limit that gains most, if a change found gains 1 and a restless case that fails costs
    e^price; infinite where none gains. `calm` and `restless` are standard errors."""
    gains = ndtr((shift - LIMITS) / calm) - math.exp(price) * ndtr(-LIMITS / restless)
    return float(LIMITS[gains.argmax()]) if gains.max() > 0 else math.inf


def ours(stored: int, cases: int, count: int) -> tuple[float, list[float]]:
    """The share of changes of EFFECT that our rule finds, every case being calm and slower; and
    of sessions in which nothing changed, of which one of the cases is restless by each of RESTLESS,
    those in which a case failed."""
    calm = quiet(LAUNCH_SD, cases)
    power = float(failed(calm, stored, max(count // cases, 100), slower=EFFECT).mean())
    worlds = [replace(calm, restless_cases=1, restless_sd=sd) for sd in RESTLESS]
    return power, [float(failed(world, stored, count).any(axis=1).mean()) for world in worlds]


if __name__ == "__main__":
    sys.exit(main())
