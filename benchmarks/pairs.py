"""Interleaved pairs: the two sides of a comparison run in turn, so that a drift of the machine
affects both alike."""

import math
import statistics
from collections.abc import Callable, Sequence


def compare(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], pairs: int, unit: str
) -> float:
    """Runs both sides in turn, prints every pair and returns the median of ours / theirs."""
    ratios = []
    for number in range(pairs):
        if number % 2:
            other, mine = theirs(), ours()
        else:
            mine, other = ours(), theirs()
        ratios.append(mine / other)
        print(
            f"  pair {number + 1}: ours {mine:10.3f} {unit}, theirs {other:10.3f} {unit},"
            f" ratio {ratios[-1]:.3f}",
            flush=True,
        )
    median = statistics.median(ratios)
    print(
        f"{name}: median ratio {median:.3f}"
        f" (lowest {min(ratios):.3f}, highest {max(ratios):.3f}, {pairs} pairs)"
    )
    if pairs > 1:
        mean, low, high = interval(ratios)
        print(f"  mean {mean:.3f}, 95% interval {low:.3f} to {high:.3f}")
    print(flush=True)
    return median


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of the ratios and its 95% interval (Student's t of logarithms)."""
    from scipy.special import stdtrit

    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    half = float(stdtrit(len(logs) - 1, 0.975)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)
