"""Disturbed launches (controller/disturbance.py defines them): which launches a figure rests on.

A launch that shared its devices with other work shows how fast the case ran beside that work, not
how fast the case is. Memory is the same either way. The one rule, for verdicts, tables, plots,
speed-ups and files alike:

    undisturbed launches          the figure
    at least FEWEST and half      `figure`, the median of the undisturbed ones
    fewer                         none: `figure` is None, `doubt` says why, `ends` has the range

Raw data stay complete: a record holds every launch and the reason why it was disturbed.
"""

import statistics
from collections.abc import Sequence

import msgspec

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import metric_row

Reasons = Sequence[str | None]

FEWEST = 2
"""A verdict on fewer undisturbed launches would rest on a single one."""


class Launches(msgspec.Struct, frozen=True, gc=False):
    """One metric of one case: the value of each launch, and the reason why each launch was
    disturbed, or None.

    `reasons` is empty where no launch was disturbed, and where a disturbance changes nothing.
    """

    # A struct and not a dataclass: a storage holds 100,000.

    values: tuple[float, ...]
    reasons: tuple[str | None, ...] = ()

    @property
    def undisturbed(self) -> tuple[float, ...]:
        """The values of the launches that were not disturbed."""
        if not self.reasons:
            return self.values
        return tuple(
            value for value, reason in zip(self.values, self.reasons, strict=True) if reason is None
        )

    @property
    def enough(self) -> bool:
        """Whether a verdict may rest on the undisturbed launches alone: at least FEWEST of them,
        and at least half of all."""
        count = len(self.undisturbed)
        return count == len(self.values) or (count >= FEWEST and 2 * count >= len(self.values))

    @property
    def trusted(self) -> tuple[float, ...]:
        """The values that the verdict rests on. Where too few launches are undisturbed these are
        all values, and then no difference is trusted."""
        return self.undisturbed if self.enough else self.values

    @property
    def figure(self) -> float | None:
        """The case's figure, the median of the undisturbed launches; None where too few launches
        are undisturbed, or none was made."""
        return statistics.median(self.undisturbed) if self.values and self.enough else None

    @property
    def middle(self) -> float:
        """What stands in a file where a number must: the median of the undisturbed launches, of all
        where none is undisturbed. Only `figure` may be shown as the case's."""
        return statistics.median(self.undisturbed or self.values)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value of all launches, disturbed or not."""
        return min(self.values), max(self.values)

    @property
    def left_out(self) -> int:
        """How many launches are disturbed."""
        return len(self.values) - len(self.undisturbed)

    @property
    def doubt(self) -> str | None:
        """Why there is no figure; None where there is one."""
        return None if self.enough else self.disturbance

    @property
    def disturbance(self) -> str | None:
        """How many launches were disturbed, and the first one's reason; None when none was."""
        reasons = [reason for reason in self.reasons if reason is not None]
        if not reasons:
            return None
        return f"{len(reasons)} of {counted(len(self.values), 'launch')} disturbed ({reasons[0]})"

    def followed_by(self, later: "Launches") -> "Launches":
        """Both together."""
        if not self.reasons and not later.reasons:
            return Launches((*self.values, *later.values))
        return Launches((*self.values, *later.values), (*_padded(self), *_padded(later)))


def launches_of(metric: str, values: Sequence[float], reasons: Reasons) -> Launches:
    """The launches of a metric. `reasons` are dropped for a metric that no disturbance changes."""
    if not any(reasons):
        return Launches(tuple(values))
    return Launches(tuple(values), tuple(reasons) if metric_row(metric).timed else ())


def either(numerators: Reasons, denominators: Reasons) -> list[str | None]:
    """The reasons of quotients of two cases' launches: a quotient is disturbed where one of its two
    launches was."""
    pairs = zip(numerators, denominators, strict=False)
    return [numerator or denominator for numerator, denominator in pairs]


def _padded(launches: Launches) -> tuple[str | None, ...]:
    return launches.reasons or (None,) * len(launches.values)
