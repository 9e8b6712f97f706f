"""Disturbed launches (controller/disturbance.py says what counts as one): which launches a verdict
on a time rests on.

A launch beside someone else's work tells how fast that left the devices, not how fast the case is.
Memory is what it was in any case. Raw data stay complete: what is left out here is left out of
verdicts and of the history only.
"""

from collections.abc import Sequence

import msgspec

from pytest_dnnbench.metrics import METRICS

Reasons = Sequence[str | None]

# A verdict on fewer undisturbed launches would hang on a single one.
FEWEST = 2


class Launches(msgspec.Struct, frozen=True, gc=False):
    """One metric of one case: the value of each launch, and why it was disturbed, or None.

    `reasons` is empty where none was, and where a disturbance changes nothing. A struct, for a
    storage holds many.
    """

    values: tuple[float, ...]
    reasons: tuple[str | None, ...] = ()

    @property
    def undisturbed(self) -> tuple[float, ...]:
        """The values that tell something of the case."""
        if not self.reasons:
            return self.values
        return tuple(
            value for value, reason in zip(self.values, self.reasons, strict=True) if reason is None
        )

    @property
    def enough(self) -> bool:
        """Whether a verdict may rest on the undisturbed ones alone: two at least, and at least half
        of all."""
        kept = len(self.undisturbed)
        return kept == len(self.values) or (kept >= FEWEST and 2 * kept >= len(self.values))

    @property
    def believed(self) -> tuple[float, ...]:
        """What the verdict rests on: all of them where too few are undisturbed, and then no
        difference is believed."""
        return self.undisturbed if self.enough else self.values

    @property
    def disturbance(self) -> str | None:
        """How many were disturbed, and by what the first of them; None when none was."""
        found = [reason for reason in self.reasons if reason is not None]
        if not found:
            return None
        return f"{len(found)} of {len(self.values)} launches disturbed ({found[0]})"

    def followed_by(self, later: "Launches") -> "Launches":
        """Both together."""
        if not self.reasons and not later.reasons:
            return Launches((*self.values, *later.values))
        return Launches((*self.values, *later.values), (*_padded(self), *_padded(later)))


def launches_of(metric: str, values: Sequence[float], reasons: Reasons = ()) -> Launches:
    """The launches of a metric; `reasons` are dropped for one that no disturbance changes."""
    if not any(reasons):
        return Launches(tuple(values))
    known = METRICS.get(metric)
    return Launches(tuple(values), tuple(reasons) if known is not None and known.timed else ())


def either(ours: Reasons, theirs: Reasons) -> list[str | None]:
    """Of quotients of two cases' launches: disturbed where one of the two was."""
    return [our or their for our, their in zip(ours, theirs, strict=False)]


def _padded(launches: Launches) -> tuple[str | None, ...]:
    return launches.reasons or (None,) * len(launches.values)
