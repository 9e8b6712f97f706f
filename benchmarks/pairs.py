"""Interleaved pairs: the two sides of a comparison run in turn, so that a drift of the machine meets both."""

import statistics
from collections.abc import Callable


def compare(name: str, ours: Callable[[], float], theirs: Callable[[], float], pairs: int, unit: str) -> float:
    """Runs ours and theirs in alternating order, prints every pair and returns the median of ours / theirs."""
    ratios = []
    for number in range(pairs):
        if number % 2:
            other, mine = theirs(), ours()
        else:
            mine, other = ours(), theirs()
        ratios.append(mine / other)
        print(f"  pair {number + 1}: ours {mine:10.3f} {unit}, theirs {other:10.3f} {unit}, ratio {ratios[-1]:.3f}")
    median = statistics.median(ratios)
    print(f"{name}: median ratio {median:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f}, {pairs} pairs)\n")
    return median
