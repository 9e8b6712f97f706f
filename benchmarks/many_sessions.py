"""False alarms and power of the detector in many worlds, of thousands of sessions at once.

    python -m benchmarks.many_sessions [--sessions 2000]

The rules of `results/statistics` are written here once more, on arrays of sessions x cases, for
sessions of three launches at the defaults: a fiftieth of the time. `tests/results/
test_many_sessions.py` holds both to the same answer. The machine's yardstick, which explains
changes of all cases together, is not heard. About 6 minutes on a quiet core.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, polygamma, psi, stdtr

from benchmarks.detection import LIMIT, SESSION_ALPHA
from benchmarks.simulated_sessions import Array, World, quiet, restless, rough, suite
from pytest_dnnbench.results.statistics.false_alarms import SCREEN_ALPHA, alpha_per_test
from pytest_dnnbench.results.statistics.noise import ASSUMED, TIME, WINDOW, median_variance

Flags = NDArray[np.bool_]

LAUNCHES = 3
CASES, STORED = (1, 2, 4, 12, 36), (1, 2, 3, 5, 20)
RATIOS = np.array([ratio for ratio, _ in ASSUMED])
CHANCES = np.array([chance for _, chance in ASSUMED])
WORTHS = np.arange(0.5, 10.5, 0.5)

WORLDS: dict[str, Callable[[int], World]] = {
    "quiet": lambda cases: quiet(cases=cases),
    "1 of 12 cases: 3%": lambda cases: restless(cases),
    "all cases: 3%": lambda cases: replace(restless(cases), restless_cases=cases),
    "1 of 12: two modes, 5%": lambda cases: restless(cases, sd=0.0, mode=0.05),
    "all: two modes, 3%": lambda cases: replace(
        restless(cases, sd=0.0, mode=0.03), restless_cases=cases
    ),
    "all together: 3%": lambda cases: replace(quiet(cases=cases), machine_sd=0.03),
    "to and fro by 2%": lambda cases: replace(quiet(cases=cases), swing=0.02),
    "1 launch in 50: -20%": lambda cases: replace(quiet(cases=cases), outliers=0.02),
    "suite, 1% to 11%": lambda cases: replace(suite(cases), odd_cases=cases > 2),
    "rough machine": lambda cases: replace(rough(cases), odd_cases=cases > 2),
}
SLOWER = (0.05, 0.1, 0.2, 0.35)
FIRST = (0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Learnt:
    """Of sessions x cases: the variance of launches and its degrees of freedom; the chance of each
    ratio, sessions x cases x ratios."""

    variance: Array
    dof: Array
    chances: Array


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=2000)
    options = parser.parse_args()
    print(f"A/A sessions of {options.sessions} in which a case failed, and the 95% interval:")
    print(f"{'':23}cases" + "".join(f"{stored:>9} stored " for stored in STORED))
    for name, world_of in WORLDS.items():
        for cases in CASES:
            row = [
                share_with_interval(
                    np.any(failed(world_of(cases), stored, options.sessions), axis=1)
                )
                for stored in STORED
            ]
            print(f"{name:23}{cases:5}" + "".join(f"{text:>16}" for text in row), flush=True)
    print("\nCases of 1% noise that failed when slower by " + ", ".join(f"{s:.0%}" for s in SLOWER))
    for cases in CASES:
        row = []
        for stored in STORED:
            count = max(options.sessions // cases, 50)
            shares = [failed(quiet(cases=cases), stored, count, slow).mean() for slow in SLOWER]
            row.append(" ".join(f"{100 * share:.0f}" for share in shares))
        print(f"{'':23}{cases:5}" + "".join(f"{text:>16}" for text in row), flush=True)
    print("\nSo many of 36, at the first comparison, by " + ", ".join(f"{s:.0%}" for s in FIRST))
    for slowed in (1, 3, 12, 30, 36):
        calls = [failed(quiet(), 1, options.sessions // 2, slow, slowed=slowed) for slow in FIRST]
        text = " ".join(f"{100 * each[:, :slowed].mean():.0f}" for each in calls)
        print(f"{'':23}{slowed:5}{text:>16}", flush=True)
    return 0


def share_with_interval(failed_sessions: Flags) -> str:
    """A share in percent with its interval of 95% (Wilson 1927)."""
    count, share = len(failed_sessions), float(np.mean(failed_sessions))
    square = float(ndtri(0.975)) ** 2 / count
    middle, half = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    low, high = (max(100 * (middle + sign * half) / (1 + square), 0.0) for sign in (-1, 1))
    return f"{100 * share:.2f} ({low:.1f}-{high:.1f})"


def failed(
    world: World,
    stored: int,
    sessions: int,
    slower: float = 0.0,
    seed: int = 0,
    slowed: int | None = None,
) -> Flags:
    """Whether each case of each of these sessions failed: sessions x cases. `slower`: by how much
    more time the first `slowed` cases take now, all of them by default."""
    rng = np.random.default_rng([seed, stored, world.cases])
    logs = np.log([world.sessions(rng, stored + 1, 2 * LAUNCHES)[0] for _ in range(sessions)])
    logs[:, -1, :slowed] -= math.log1p(slower)
    return judged(logs[:, :-1, :, :LAUNCHES], logs[:, -1])


def judged(past: Array, now: Array) -> Flags:
    """The verdicts on logarithms of throughput: `past` sessions x stored x cases x launches, `now`
    sessions x cases x launches of both looks."""
    alpha, bound = alpha_per_test(SESSION_ALPHA, past.shape[2]), -math.log1p(-LIMIT)
    learnt = learn(past)
    baseline = np.median(np.median(past, axis=-1)[:, -WINDOW:], axis=1)
    first, fresh, both = now[..., :LAUNCHES], now[..., LAUNCHES:], now
    if past.shape[1] == 1:
        learnt = at_first_comparison(learnt, past[:, 0], first[..., :-1])
    worse = [baseline - np.median(part, axis=-1) for part in (first, fresh, both)]
    suspect = (worse[0] > bound) & (
        by_chance(worse[0], first, learnt, past.shape[1]) < max(alpha, SCREEN_ALPHA)
    )
    sure = by_chance(worse[2], both, learnt, past.shape[1]) < alpha
    answer: Flags = suspect & (worse[1] > bound) & (worse[2] > bound) & sure
    return answer


def by_chance(worse: Array, launches: Array, learnt: Learnt, stored: int) -> Array:
    """The probability that chance alone makes a case worse by this much or more."""
    dof, own = launches.shape[-1] - 1, squares(launches)
    past = np.minimum(learnt.dof, 4.0)
    variance = np.maximum(
        (learnt.dof * learnt.variance + own) / (learnt.dof + dof),
        (past * learnt.variance + own) / (past + dof),
    )
    spread = median_variance(min(stored, WINDOW))
    share = median_variance(launches.shape[-1]) + spread * median_variance(LAUNCHES)
    errors = np.sqrt(variance[..., None] * (share + RATIOS**2 * (1 + spread)))
    tails = stdtr((learnt.dof + dof)[..., None], -worse[..., None] / errors)
    chance: Array = (learnt.chances * tails).sum(axis=-1)
    return chance


def learn(past: Array) -> Learnt:
    """What `suite_noise.pool` and `noise.learn` make of stored sessions."""
    cases, dof = past.shape[2], past.shape[1] * (LAUNCHES - 1)
    own = squares(past).sum(axis=1)
    common, worth = _common_variance(own / dof, dof)
    total = (worth + dof)[:, None] + np.zeros_like(own)
    variance = (own + (worth * common)[:, None]) / total
    errors, shares = _errors(past.mean(axis=-1))
    if not len(shares):
        return Learnt(variance, total, np.broadcast_to(CHANCES, (*own.shape, len(RATIOS))))
    likely = _likely(errors, shares, variance, total)
    chances = np.broadcast_to(CHANCES, (len(past), len(RATIOS)))
    if cases >= 4:
        weight = _independent(errors / np.sqrt(variance)[:, None, :])[:, None]
        for _ in range(25):
            chances = (CHANCES + weight * _after(likely, chances).mean(axis=1)) / (1 + weight)
    return Learnt(variance, total, _after(likely, chances))


def at_first_comparison(learnt: Learnt, stored: Array, early: Array) -> Learnt:
    """What `suite_noise.calmer` makes of it, with the launches of the stored session and those of
    all rounds but the last."""
    if stored.shape[1] < 12:
        return learnt
    errors = (early.mean(axis=-1) - stored.mean(axis=-1)) / math.sqrt(2)
    share = (1 / early.shape[-1] + 1 / LAUNCHES) / 2
    likely = _likely(errors[:, None], np.array([share]), learnt.variance, learnt.dof)
    better = errors > 0
    weight, shares = 2.0 * better.sum(axis=1)[:, None], np.broadcast_to(CHANCES, likely[:, 0].shape)
    for _ in range(25):
        sums = 2 * (_after(likely, shares) * better[..., None]).sum(axis=1)
        shares = (8 * CHANCES + sums) / (8 + weight)
    calm = shares[:, RATIOS >= 4].sum(axis=1) < CHANCES[RATIOS >= 4].sum()
    chances = np.where(calm[:, None], shares, CHANCES)[:, None]
    return replace(learnt, chances=np.broadcast_to(chances, likely.shape))


def squares(logs: Array) -> Array:
    """Around the mean, over launches."""
    answer: Array = ((logs - logs.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return answer


def _likely(errors: Array, shares: Array, variance: Array, dof: Array) -> Array:
    """How well each ratio explains the errors, sessions x errors x cases, of each case."""
    sizes = shares[:, None] + RATIOS**2
    distances = np.einsum("stc,tr->scr", errors**2, 1 / sizes) / variance[..., None]
    logs = -(dof[..., None] + len(shares)) / 2 * np.log1p(distances / dof[..., None])
    logs -= np.log(sizes).sum(axis=0) / 2
    answer: Array = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return answer


def _after(likely: Array, chances: Array) -> Array:
    weights = likely * chances[:, None, :]
    answer: Array = weights / weights.sum(axis=-1, keepdims=True)
    return answer


def _common_variance(variances: Array, dof: int) -> tuple[Array, Array]:
    sessions, cases = variances.shape
    assumed = np.full(sessions, TIME.launch_sd**2), np.full(sessions, TIME.launch_dof)
    if cases < 4:
        return assumed
    logs = np.log(variances) - psi(dof / 2) + math.log(dof / 2)
    excess = logs.var(axis=1, ddof=1) - polygamma(1, dof / 2)
    fits = polygamma(1, WORTHS / 2) >= excess[:, None]
    last = len(WORTHS) - 1 - fits[:, ::-1].argmax(axis=1)
    worth = np.where(fits.any(axis=1), WORTHS[last], WORTHS[0])
    common = np.exp(logs.mean(axis=1) + psi(worth / 2) - np.log(worth / 2))
    enough = worth >= TIME.launch_dof
    return np.where(enough, common, assumed[0]), np.where(enough, worth, assumed[1])


def _errors(means: Array) -> tuple[Array, Array]:
    """Errors of prediction, sessions x errors x cases, and the share of launches in each."""
    errors, shares = [], []
    for number in range(1, means.shape[1]):
        first = max(0, number - WINDOW)
        spread = median_variance(number - first)
        error = means[:, number] - np.median(means[:, first:number], axis=1)
        errors.append(error / math.sqrt(1 + spread))
        shares.append(1 / LAUNCHES)
    return np.array(errors).swapaxes(0, 1) if errors else np.zeros(0), np.array(shares)


def _independent(errors: Array) -> Array:
    cases = errors.shape[2]
    together = (errors.mean(axis=2) ** 2).sum(axis=1)
    apart = (errors**2).mean(axis=2).sum(axis=1)
    correlation = np.maximum((cases * together / apart - 1) / (cases - 1), 0.0)
    independent = cases / (1 + (cases - 1) * correlation**2)
    answer: Array = independent if errors.shape[1] > 1 else np.minimum(independent, 2.0)
    return answer


if __name__ == "__main__":
    sys.exit(main())
