"""Change points of stored histories: how often one is named although nothing changed, and how well
a change is found, on simulated histories.

    python -m benchmarks.history [--histories 1000]

False: the share of histories without a change in which any is named; 1% is stated. The figures of
sessions are normal, of Student's distribution with 3 degrees of freedom, normal with a slow session
(a third) in ten, or a level that walks by half of the noise from session to session: that one does
change. Found: a step at 1% of noise, so many sessions before the end of 50; `near` is the share of
those found that is placed within one session, `covered` that with the true change in its interval.

Two minutes on a quiet core. Fails if a share of false ones is above 2% where nothing changed.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pytest_dnnbench.results.statistics.change_points import change_points

Array = NDArray[np.float64]
SD, MARK = 0.01, 0.02


def _slow_days(rng: np.random.Generator, count: int) -> Array:
    return rng.normal(0, SD, count) - 0.3 * (rng.random(count) < 0.1)


def _walk(rng: np.random.Generator, count: int) -> Array:
    return np.asarray(rng.normal(0, SD, count) + np.cumsum(rng.normal(0, SD / 2, count)))


WORLDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, count: rng.normal(0, SD, count),
    "heavy tails": lambda rng, count: np.asarray(SD * rng.standard_t(3, count)),
    "slow days": _slow_days,
    "walking": _walk,
}


def main() -> int:
    """Prints both tables; 1 if the mark is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--histories", type=int, default=1000)
    count = parser.parse_args().histories
    missed = False
    print(f"Named although nothing changed, of {count} histories:")
    print(f"{'':14}" + "".join(f"{sessions:>5} sessions" for sessions in (12, 20, 50)))
    for name, noise in WORLDS.items():
        rates = [named(noise, sessions, count) for sessions in (12, 20, 50)]
        missed |= max(rates) > MARK and name != "walking"
        print(f"{name:14}" + "".join(f"{rate:14.1%}" for rate in rates), flush=True)
    print("\nSteps at 1% of noise in 50 sessions:")
    for size in (0.03, 0.05):
        for since in (2, 3, 5, 10, 25):
            named_steps, near, covered = steps(size, since, max(count // 5, 1))
            print(
                f"{size:.0%}, {since:2} sessions ago: found {named_steps:6.1%}, near {near:6.1%},"
                f" covered {covered:6.1%}",
                flush=True,
            )
    return int(missed)


def named(noise: Callable[[np.random.Generator, int], Array], sessions: int, count: int) -> float:
    """The share of histories in which a change is named."""
    rng = np.random.default_rng(sessions)
    return (
        sum(bool(change_points(np.exp(noise(rng, sessions)).tolist())) for _ in range(count))
        / count
    )


def steps(size: float, since: int, count: int) -> tuple[float, float, float]:
    """The shares of steps that are found, placed within a session, and covered."""
    rng, named_steps, near, covered = np.random.default_rng(since), 0, 0, 0
    for _ in range(count):
        figures = np.exp(rng.normal(0, SD, 50))
        figures[50 - since :] *= 1 - size
        points = change_points(figures.tolist())
        if points:
            nearest = min(points, key=lambda point: abs(point.at - (50 - since)))
            named_steps += 1
            near += abs(nearest.at - (50 - since)) <= 1
            covered += nearest.interval[0] <= -size <= nearest.interval[1]
    return named_steps / count, near / max(named_steps, 1), covered / max(named_steps, 1)


if __name__ == "__main__":
    sys.exit(main())
