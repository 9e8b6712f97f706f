"""What a record holds of profiled steps: the breakdown of a step (made in breakdown.py), and why a
case got slower (results/verdicts/why.py)."""

import msgspec

from pytest_dnnbench.step_parts import Part

ADDS_UP = 0.05
"""How far the parts of a step may be from the step itself, as a fraction."""


class ProfiledRank(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rank's profiled steps in one launch: how many, the seconds of one by the host's clock,
    and the seconds of one by part. `trace` is the name of the file in
    --dnn-traces."""

    steps: int
    step_time_s: float
    parts_s: dict[Part, float]
    trace: str = ""


class OperatorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one operator takes of a profiled step, as far as it counts as `part`: the seconds, for
    each profiled launch those of each rank. `calls` counts its calls in a step of each rank, over
    all parts. An empty name: the host between operators. The time of communication is its exposed
    part."""

    part: Part
    name: str
    self_s: list[list[float]]
    calls: list[float]


class BreakdownEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a step's time goes into, from a few steps under torch's profiler after the timed ones
    of each launch. They are slower than the timed steps: use their shares.

    `seconds` and `shares` of a step by part are the job's: the mean over its ranks, the median over
    the launches. `slowdown` is the time of a profiled step over that of a timed one.
    `parts_over_step` is, of all ranks and launches, the sum of the parts over the step that is
    farthest from 1: beyond 5% the parts do not add up. `launches` are the profiled ones, each with
    its ranks, without `left_out` that were disturbed. `operators` are those that take most of a
    step.
    """

    seconds: dict[Part, float]
    shares: dict[Part, float]
    slowdown: float
    parts_over_step: float
    launches: list[list[ProfiledRank]]
    operators: list[OperatorEntry] = []
    left_out: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether the parts of every rank add up to its steps."""
        return abs(self.parts_over_step - 1) <= ADDS_UP


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the step that grew beyond the spread of the profiled launches: one operator of it,
    or without a name the part as a whole. Seconds of a step, and the share of the difference that
    the growth explains."""

    part: Part
    name: str
    baseline_s: float
    now_s: float
    baseline_calls: float | None
    now_calls: float | None
    share: float


class WhyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Why a case got slower: its profile beside the baseline's, on one rank. Of two environments
    side by side (`against`) the faster side is the baseline.

    `rank` is the one whose own work grew most, or, where none did, the one that waits least. The
    seconds are those of a profiled step on it. `causes` are the largest first; empty where no part
    stands out. `doubt` says why nothing can be said, where that is so.
    """

    rank: int
    baseline_s: float
    now_s: float
    causes: list[Cause] = []
    doubt: str = ""
