"""Two environments side by side: which cases differ, and when the question is settled.

    after each planned look    every metric of every case that is still open is decided from its
                               pairs (statistics/paired.py)
    a case is settled          when each of its metrics is; it is not launched any more
    a metric is settled        when a difference is called, and is clearly within its limit or
                               beyond it; or when an interesting change would have been called

A call stands, even if later pairs of an open case no longer show it: it was allowed its share of
the false-alarm rate. Pure: from figures of launches to what a record holds.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import COMPILE, METRICS, YARDSTICK, metric_row
from pytest_dnnbench.results.baselines.limits import Limit, parse_limit_list
from pytest_dnnbench.results.records.breakdown import breakdown_of
from pytest_dnnbench.results.records.launches import either
from pytest_dnnbench.results.records.measurement import Figures, Measurement
from pytest_dnnbench.results.records.side_by_side import (
    OtherSide,
    SideEntry,
    SideMetric,
    SideStatus,
)
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import median
from pytest_dnnbench.results.statistics.paired import (
    SMALLEST,
    Look,
    PairDecision,
    decide_pairs,
    looks,
    pair_prior,
)

_OF_SINGLE = "it is divided by `single` of the session, and is not one side's: take throughput"

NOT_OF_A_PAIR = {
    "speedup": _OF_SINGLE,
    "scaling_efficiency": _OF_SINGLE,
    "efficiency_within_node": _OF_SINGLE,
    "efficiency_across_nodes": _OF_SINGLE,
    YARDSTICK: "it is the speed of the machine, which both sides share",
    COMPILE: "most of it is in the first launch of a session: time a session of each side instead",
}
"""Metrics that the two launches of a round do not have, each with the reason."""

Ratios = Mapping[str, Mapping[str, Sequence[float]]]
"""Of each case and each of its metrics: B / A of each pair, in the order of the rounds."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric that is compared: the change that is interesting, a positive fraction, and the
    change for the worse that the user allows, signed; None: any."""

    interesting: float
    limit: float | None = None

    @property
    def smallest(self) -> float:
        """The least change that is called. The peak memory of a process differs by 0.04% because
        one more folder is searched for modules: that is so, and it is nothing."""
        return max(self.interesting / 10, SMALLEST)


def against_limits(entries: Iterable[str], source: str) -> dict[str, Limit]:
    """The limits of B relative to A. Raises UsageError for bounds, which need no other side, and
    for metrics that no pair has."""
    limits = parse_limit_list(entries, source)
    for metric, limit in limits.items():
        if metric in NOT_OF_A_PAIR and not limit.off:
            raise UsageError(f"{source}: {metric} cannot be compared: {NOT_OF_A_PAIR[metric]}")
        if limit.absolute is not None:
            raise UsageError(
                f"{source}: {metric} has a bound, and B is compared with A: write a change, as in"
                " throughput=-3%, and give the bound to --dnn-limits"
            )
    return limits


def compared_metrics(device: str, limits: Mapping[str, Limit]) -> dict[str, Compared]:
    """The metrics that are compared on this kind of device: those of which a change is interesting
    by default, and those that the user limits, whatever the device: a limit that nothing is held
    to has to be said (`OtherSide.uncompared`). Not those that the user switches off."""
    compared = {}
    for name, metric in METRICS.items():
        limit = limits.get(name, Limit())
        relative = limit.relative
        interesting = metric.tolerance if relative is None else abs(relative)
        is_asked = device in metric.devices or relative is not None
        if interesting is not None and not limit.off and is_asked:
            compared[name] = Compared(interesting, relative)
    return compared


@dataclass
class Questions:
    """The questions of a session: does B differ from A, in each of `cases` and each of `metrics`?

    `most` is the greatest number of rounds and `false_alarms` the session's rate: the probability
    that any difference is called where there is none.
    """

    cases: int
    metrics: Mapping[str, Compared]
    most: int
    false_alarms: float
    decisions: dict[str, dict[str, PairDecision]] = field(default_factory=dict)
    looked: list[int] = field(default_factory=list)

    @property
    def alpha(self) -> float:
        """The false-alarm rate of one metric of one case."""
        return alpha_per_test(self.false_alarms, self.cases * len(self.metrics))

    def planned(self, rounds: int) -> Look | None:
        """The look that is planned after so many rounds, if any."""
        return next((look for look in looks(self.most) if look.rounds == rounds), None)

    def look(self, planned: Look, ratios: Ratios, alone: str | None = None) -> None:
        """Looks at the pairs. `ratios` has all cases that have been measured on both sides, settled
        ones too. With `alone` only this case is decided: the others have had this look."""
        if planned.rounds not in self.looked:
            self.looked.append(planned.rounds)
        # Before the look: a case that it settles has all of its metrics decided by it.
        settled = {case for case in ratios if self.is_settled(case) or alone not in (None, case)}
        for metric in self.metrics:
            self._look_at(metric, planned, ratios, settled)

    def _look_at(
        self, metric: str, planned: Look, ratios: Ratios, settled: Collection[str]
    ) -> None:
        of_case = {
            case: list(pairs[metric])[: planned.rounds]
            for case, pairs in ratios.items()
            if metric in pairs
        }
        prior = pair_prior([*of_case.values()])
        for case, pairs in of_case.items():
            decided = self.decisions.setdefault(case, {})
            if len(pairs) < planned.rounds or (metric in decided and case in settled):
                continue
            decision = decide_pairs(
                pairs,
                prior=prior,
                alpha=self.alpha,
                share=planned.share,
                smallest=self.metrics[metric].smallest,
            )
            before = decided.get(metric)
            if before and before.status != "no evidence" and decision.status == "no evidence":
                continue
            decided[metric] = decision

    def is_settled(self, case: str) -> bool:
        """Whether more launches of the case would tell nothing that was asked."""
        decided = self.decisions.get(case, {})
        return bool(decided) and all(
            _settled(decision, self.metrics[metric]) for metric, decision in decided.items()
        )


def _settled(decision: PairDecision, compared: Compared) -> bool:
    if decision.status == "no evidence":
        return decision.detectable <= compared.interesting
    low, high = decision.interval
    return compared.limit is None or not low <= compared.limit <= high


def side_metric(
    metric: str,
    decision: PairDecision,
    compared: Compared,
    figures: tuple[Sequence[float], Sequence[float]],
    disturbed: int,
) -> SideMetric:
    """The comparison of one metric, for the record. `figures` are those of A's launches and of
    B's."""
    status = _status(metric, decision)
    return SideMetric(
        status=status,
        a=median(figures[0]),
        b=median(figures[1]),
        change=decision.change,
        interval=decision.interval,
        detectable=decision.detectable,
        pairs=decision.pairs,
        limit=compared.limit,
        broken=status == "worse" and _beyond(decision.change, compared.limit),
        disturbed=disturbed,
    )


def _status(metric: str, decision: PairDecision) -> SideStatus:
    if decision.status == "no evidence":
        return "no evidence"
    return "better" if decision.status == METRICS[metric].better else "worse"


def _beyond(change: float, limit: float | None) -> bool:
    return limit is not None and abs(math.log1p(change)) > abs(math.log1p(limit))


def ratios_of(a: Mapping[str, Figures], b: Mapping[str, Figures]) -> dict[str, list[float]]:
    """B / A of each pair, by metric: of those that both sides have and whose figures have a
    logarithm (`no_ratio` says which have none). Figures that differ by no more than the metric's
    granularity are alike."""
    ratios = {}
    for metric in a:
        if not no_ratio(metric, a, b):
            ratios[metric] = pair_ratios(metric, a[metric].per_launch, b[metric].per_launch)
    return ratios


def no_ratio(metric: str, a: Mapping[str, Figures], b: Mapping[str, Figures]) -> str:
    """Why a metric that a side has cannot be compared; empty where it can."""
    for side, figures in (("A", a), ("B", b)):
        if metric not in figures or not figures[metric].per_launch:
            return f"side {side} has no figure of it"
    for pair in zip(a[metric].per_launch, b[metric].per_launch, strict=False):
        for side, value in zip("AB", pair, strict=True):
            if not value > 0:
                return f"a launch of side {side} has {value:g}, of which there is no ratio"
    return ""


def pair_ratios(metric: str, a: Sequence[float], b: Sequence[float]) -> list[float]:
    """B / A of each pair of one metric, as in `ratios_of`; none where a figure has no logarithm."""
    pairs = [*zip(a, b, strict=False)]
    if not all(before > 0 and after > 0 for before, after in pairs):
        return []
    granule = metric_row(metric).granularity
    return [
        1.0 if granule and abs(after - before) <= granule else after / before
        for before, after in pairs
    ]


def other_side_of(
    side: SideEntry,
    b: Measurement | None,
    a: Measurement,
    questions: Questions,
    case: str,
    b_first: Sequence[bool],
    failure: str | None,
) -> OtherSide:
    """Side B of a case for its record, from the measurements of both sides; `b` is None where B was
    never measured."""
    if b is None:
        return OtherSide(side=side, failure=failure)
    before, after = a.values(), b.values()
    reasons = [launch.conditions.disturbed for launch in b.launches]
    reasons_a = [launch.conditions.disturbed for launch in a.launches]
    disturbed = sum(map(bool, either(reasons_a, reasons)))
    return OtherSide(
        side=msgspec.structs.replace(side, differences=_with_facts(side.differences, a, b)),
        step_time_s=[launch.step_time_s for launch in b.launches],
        per_launch={name: each.per_launch for name, each in after.items()},
        disturbed=reasons,
        b_first=list(b_first),
        looks=[rounds for rounds in questions.looked if rounds <= len(b.launches)],
        compared={} if failure else _compared(questions, case, before, after, disturbed),
        must_match=dict(b.environment.must_match),
        recorded=dict(b.environment.recorded),
        checked=dict(b.correctness.largest_deviation),
        uncompared={} if failure else _uncompared(questions.metrics, before, after),
        failure=failure,
        breakdown=breakdown_of(b.launches),
    )


def _compared(
    questions: Questions,
    case: str,
    before: Mapping[str, Figures],
    after: Mapping[str, Figures],
    disturbed: int,
) -> dict[str, SideMetric]:
    """What was decided of each metric of a case."""
    return {
        metric: side_metric(
            metric,
            decision,
            questions.metrics[metric],
            (before[metric].per_launch, after[metric].per_launch),
            disturbed,
        )
        for metric, decision in questions.decisions.get(case, {}).items()
    }


def _uncompared(
    metrics: Mapping[str, Compared], before: Mapping[str, Figures], after: Mapping[str, Figures]
) -> dict[str, str]:
    """Why metrics that were asked for were not compared: those that a side has, and those that
    the user limits."""
    reasons = {name: no_ratio(name, before, after) for name in metrics}
    return {
        name: reason
        for name, reason in reasons.items()
        if reason and (name in before or name in after or metrics[name].limit is not None)
    }


def _with_facts(differences: Sequence[str], a: Measurement, b: Measurement) -> list[str]:
    """What was seen to differ before, and the facts of the ranks that do."""
    before, after = a.environment.must_match, b.environment.must_match
    stated = {line.partition(":")[0] for line in differences}
    return [
        *differences,
        *(
            f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
            and name not in stated
            and name.removeprefix("variables.") not in stated
        ),
    ]
