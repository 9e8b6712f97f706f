"""How many launches a session needs to detect a change of a given size, from the noise of its
baseline."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, NoBaseline
from pytest_dnnbench.results.baselines.limits import Layers, Limit
from pytest_dnnbench.results.baselines.stored_sessions import Baseline
from pytest_dnnbench.results.records.schema import LaunchPlanEntry, Record
from pytest_dnnbench.results.statistics.anchor import rate_of_latest
from pytest_dnnbench.results.statistics.design import MOST_LAUNCHES, launches_for
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import learn
from pytest_dnnbench.results.verdicts.number_of_tests import expected_limits, stored_case

METRIC = THROUGHPUT
"""The metric whose changes are to be detected; the others need no more launches."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The launches of each case of a session, so that a change of `effect` is detected.

    `needed` has the fewest launches that detect it, for each case that the baseline has; None where
    no number does.
    """

    effect: float
    launches: int
    needed: Mapping[str, int | None]

    @property
    def beyond(self) -> tuple[str, ...]:
        """Cases in which no number of launches would detect the change: their noise between
        sessions is too large, or too few sessions are stored."""
        return tuple(name for name, count in self.needed.items() if count is None)

    def entry(self, name: str) -> LaunchPlanEntry:
        """For the record of a case."""
        return LaunchPlanEntry(
            effect=self.effect,
            metric=METRIC,
            launches=self.launches,
            needed=self.needed.get(name),
            stored=name in self.needed,
        )

    def __str__(self) -> str:
        change = f"a {100 * self.effect:g}% change of {METRIC}"
        planned = len(self.needed) - len(self.beyond)
        if planned:
            text = f"the fewest that detect {change} in {counted(planned, 'case')}"
        elif self.needed:
            text = "the default: no case can be planned"
        else:
            text = "the default: nothing is stored of these cases"
        if self.beyond:
            more = f" and {len(self.beyond) - 1} more" if len(self.beyond) > 1 else ""
            text += (
                f"; no number up to {MOST_LAUNCHES} detects {'it' if planned else change} in"
                f" {self.beyond[0]}{more}: sessions differ too much, too few are stored, or the"
                " limit is too near"
            )
        return (
            f"{counted(self.launches, 'launch')}: {text}"
            if planned
            else f"{counted(self.launches, 'launch')}, {text}"
        )


def plan_launches(
    effect: float,
    baseline: Baseline,
    cases: Mapping[str, Layers],
    *,
    false_alarms: float,
    at_least: int,
    device: str,
) -> LaunchPlan:
    """As many launches as the case that needs the most of them, at least `at_least`.

    `cases` maps each case of the session to the limits that its user set. Cases that the baseline
    lacks need none, but they too are tested.
    """
    stored = {name: stored_case(baseline, name) for name in cases}
    limits = {name: expected_limits(stored[name], cases[name], device) for name in cases}
    alpha = alpha_per_test(false_alarms, sum(map(len, limits.values())))
    needed = {
        name: _launches(effect, case, limits[name][METRIC], alpha)
        for name, case in stored.items()
        if case.metrics and METRIC in limits[name]
    }
    counts = [count for count in needed.values() if count is not None]
    return LaunchPlan(effect, max([at_least, *counts]), needed)


def plans_of(records: Iterable[Record]) -> list[LaunchPlan]:
    """The plan that the cases of these records were measured by; several if they differ."""
    plans: dict[tuple[float, int], dict[str, int | None]] = {}
    for record in records:
        if entry := record.launch_plan:
            needed = plans.setdefault((entry.effect, entry.launches), {})
            if entry.stored:
                needed[record.measured_case.label] = entry.needed
    return [LaunchPlan(*planned, needed) for planned, needed in plans.items()]


def _launches(
    effect: float, case: CaseBaseline | NoBaseline, limit: Limit, alpha: float
) -> int | None:
    """None where no number is enough."""
    sessions = case.sessions_of(METRIC)
    if not sessions:
        return None
    noise = case.noise_of(METRIC) or learn(sessions, case.prior_of(METRIC))
    smallest = abs(limit.relative) if limit.relative is not None else 0.0
    return launches_for(
        effect,
        noise,
        limit=smallest,
        alpha=rate_of_latest(alpha),
        history=[len(session) for session in sessions],
    )
