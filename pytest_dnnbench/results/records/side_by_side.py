"""What a record holds of the other side, where a session ran its cases in two environments
(--dnn-against). Side A is the environment of the session, and the record itself; side B is the
other one. Decided in results/verdicts/side_by_side.py."""

import math
from typing import Literal

import msgspec

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.metrics import THROUGHPUT, can_be_measured
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry, WhyEntry

SideStatus = Literal["better", "worse", "no evidence"]

Side = Literal["A", "B"]

TIMES = (THROUGHPUT, "step_time_s")
"""The metrics of which profiled steps explain a difference."""


class SideEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Side B: its name, its interpreter, the folders that are first on its `sys.path`, and the
    environment variables that it alone has.

    `requirement` is what its environment was made for, or empty. `differences` lists what differs
    from side A, as in "torch: 2.13.0 -> 2.9.1"; of a control, whose sides are alike, it is empty.
    """

    name: str
    python: str
    paths: list[str] = []
    variables: dict[str, str] = {}
    requirement: str = ""
    differences: list[str] = []


class SideMetric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One metric of both sides.

    `a` and `b` are the sides' medians over their pairs of launches, in the metric's unit. `change`,
    `interval` and `detectable` are fractions of A's figure: the geometric mean of the pairs' B / A
    less one; its 95% interval, which holds for all looks together; and the change, in either
    direction, that would have been called with 95% probability. `status` is B's: better or worse
    than A, or no evidence of either. `limit` is the change for the worse that --dnn-against-limits
    allows, signed, and `broken` whether B is worse by more. `disturbed` counts the pairs of which a
    launch was disturbed; they count like all others.
    """

    status: SideStatus
    a: float
    b: float
    change: float
    interval: tuple[float, float]
    detectable: float
    pairs: int
    limit: float | None = None
    broken: bool = False
    disturbed: int = 0

    @property
    def is_possible(self) -> bool:
        """Whether its figures can have been measured; those of a damaged file need not."""
        low, high = self.interval
        return (
            -1 < low <= self.change <= high < math.inf
            and 0 <= self.detectable < math.inf
            and all(can_be_measured(value) and value > 0 for value in (self.a, self.b))
        )


class OtherSide(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Side B of a case, and how it compares with side A, the record.

    `step_time_s` has the raw seconds of the timed steps of each launch of B, `per_launch` a figure
    of each metric for each launch, and `disturbed` why each launch was disturbed, or null. Launch i
    of B and launch i of the record are a pair, made in round i; `b_first` says in which rounds B
    was launched first. `looks` are the rounds after which the question was looked at. `must_match`
    and `recorded` are the facts of B's environment, as in a record. `checked` is what was compared
    with the reference before B was timed, with the largest deviation of each. `uncompared` says why
    a metric that a side has is not among `compared`: a ratio takes positive figures.

    `breakdown` is B's, where its steps were profiled. `why` says what takes longer on the slower
    side, where the sides differ in time: the faster side stands where a record's own `why` has the
    baseline. `failure` says why B could not be measured; `compared` is empty then.
    """

    side: SideEntry
    step_time_s: list[list[float]] = []
    per_launch: dict[str, list[float]] = {}
    disturbed: list[str | None] = []
    b_first: list[bool] = []
    looks: list[int] = []
    compared: dict[str, SideMetric] = {}
    must_match: dict[str, Scalar | None] = {}
    recorded: dict[str, Scalar | None] = {}
    checked: dict[str, float] = {}
    uncompared: dict[str, str] = {}
    failure: str | None = None
    breakdown: BreakdownEntry | None = None
    why: WhyEntry | None = None

    @property
    def slower(self) -> Side | None:
        """The side that takes longer, by throughput, or by the step time where throughput was not
        compared or not called; None where no difference in time was called."""
        for metric in TIMES:
            each = self.compared.get(metric)
            if each is not None and each.is_possible and each.status != "no evidence":
                return "B" if each.status == "worse" else "A"
        return None
