"""The best rule that there can be, beside rules that are plain to see, and beside ours."""

import math
from dataclasses import replace

import numpy as np

from benchmarks.many_sessions import failed
from benchmarks.oracle import EFFECT, LAUNCH_SD, oracle
from benchmarks.simulated_sessions import Array, quiet

CASES, RESTLESS_SD, RATE = 20_000, 0.03, 0.02


def test_the_oracle_is_as_good_as_the_best_of_many_plain_rules() -> None:
    """Each fails a case whose three stored sessions differ by less than `calm` and whose difference
    is above `limit`. None finds more, but for the chance of the simulation (a standard error of
    0.2% on what is found, 0.1% on alarms); the oracle's limit, which follows how calm the stored
    sessions are, finds a little more."""
    changed = _spreads_and_differences(0.0, math.log1p(EFFECT))
    unchanged = _spreads_and_differences(RESTLESS_SD, 0.0)
    best = max(
        _share(changed, calm, limit)
        for calm in np.linspace(0.002, 0.03, 57)
        for limit in np.linspace(0.0, 0.05, 51)
        if _share(unchanged, calm, limit) <= RATE
    )
    power = oracle(3, RESTLESS_SD, (RATE,), CASES)[0]
    assert best - 0.01 < power < best + 0.05


def test_our_rule_finds_no_more_than_the_oracle() -> None:
    """With three stored sessions and one case: where one of the two finds more, it fails more."""
    case = quiet(LAUNCH_SD, 1)
    power = failed(case, 3, 2000, slower=EFFECT).mean()
    world = replace(case, restless_cases=1, restless_sd=RESTLESS_SD)
    alarms = float(failed(world, 3, 2000).mean())
    assert 0.01 < alarms < 0.04
    assert power < oracle(3, RESTLESS_SD, (alarms,), CASES)[0] + 0.01


def test_more_stored_sessions_and_more_alarms_find_more() -> None:
    shares = [oracle(stored, RESTLESS_SD, (0.01, 0.03), CASES) for stored in (2, 3, 5)]
    assert all(few < many for few, many in shares)
    assert shares[0][0] < shares[1][0] < shares[2][0]
    assert shares[2][0] > 0.99


def _spreads_and_differences(session_sd: float, shift: float) -> tuple[Array, Array]:
    """The standard deviation of three sessions' means, and what the fourth is worse by than their
    mean."""
    rng = np.random.default_rng([7, round(100 * shift)])
    levels = session_sd * rng.standard_normal((CASES, 4))
    levels[:, 3] -= shift
    noise = LAUNCH_SD * rng.standard_normal((CASES, 4)) / np.sqrt([3, 3, 3, 6])
    past, now = (levels + noise)[:, :3], (levels + noise)[:, 3]
    return past.std(axis=1, ddof=1), past.mean(axis=1) - now


def _share(cases: tuple[Array, Array], calm: float, limit: float) -> float:
    spreads, differences = cases
    return float(((spreads < calm) & (differences > limit)).mean())
