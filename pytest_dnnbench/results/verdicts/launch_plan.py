"""How many launches a session needs to find a change of a given size, from the noise of its
baseline."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dnnbench.results.baselines.baseline import Baseline, CaseBaseline
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.statistics.design import MOST_LAUNCHES, alpha_per_test, launches_for
from pytest_dnnbench.results.statistics.noise import learn, prior_of
from pytest_dnnbench.results.verdicts.judge import limits_of

# The metric whose changes are to be found; the others need no more launches.
METRIC = "throughput"

Layers = Sequence[Mapping[str, Limit]]


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The launches of each case of a session, so that a change of `effect` is found.

    `needed`: of each case that the baseline has, the fewest that find it; None where no number
    does.
    """

    effect: float
    launches: int
    needed: Mapping[str, int | None]

    @property
    def beyond(self) -> tuple[str, ...]:
        """Cases in which no number would find the change: their noise between sessions is too
        large, or too little of it is stored."""
        return tuple(name for name, count in self.needed.items() if count is None)

    def entry(self, name: str) -> dict[str, Any]:
        """For the record of a case. `stored`: the baseline has it, so that `needed` is from its
        noise."""
        return {
            "effect": self.effect,
            "metric": METRIC,
            "launches": self.launches,
            "needed": self.needed.get(name),
            "stored": name in self.needed,
        }

    def __str__(self) -> str:
        change = f"a {100 * self.effect:g}% change of {METRIC}"
        found = len(self.needed) - len(self.beyond)
        text = f"{self.launches} launches"
        if found:
            text += f": the fewest that find {change} in {found} case{'s' * (found > 1)}"
        else:
            text += f", the default: {'none was found' if self.needed else 'nothing is stored of these cases'}"
        if self.beyond:
            names = f"{self.beyond[0]}{f' and {len(self.beyond) - 1} more' if len(self.beyond) > 1 else ''}"
            text += (
                f"; no number up to {MOST_LAUNCHES} finds {'it' if found else change} in {names}: sessions differ too"
                " much, too few are stored, or the limit is too near"
            )
        return text


def plan_launches(
    effect: float,
    baseline: Baseline,
    cases: Mapping[str, Layers],
    *,
    false_alarms: float,
    at_least: int,
) -> LaunchPlan:
    """As many launches as the case that needs the most of them, at least `at_least`.

    `cases` maps each case to the limits that its user set, nearest first. Cases that the baseline
    lacks need none.
    """
    stored = {name: baseline.stored(name) for name in cases}
    limits = {
        name: limits_of(dict.fromkeys((*case.history, *case.disturbed)), case, cases[name])
        if case is not None
        else {}
        for name, case in stored.items()
    }
    alpha = alpha_per_test(false_alarms, sum(len(found) for found in limits.values()))
    needed = {
        name: _launches(effect, case, limits[name][METRIC], alpha)
        for name, case in stored.items()
        if case is not None and METRIC in limits[name]
    }
    known = [count for count in needed.values() if count is not None]
    return LaunchPlan(effect, max([at_least, *known]), needed)


def plans_of(records: Iterable[Mapping[str, Any]]) -> list[LaunchPlan]:
    """What was planned for the cases of these records: one plan, unless they were measured with
    several."""
    plans: dict[tuple[float, int], dict[str, int | None]] = {}
    for record in records:
        if entry := record.get("launch_plan"):
            case = record["case"]
            name = f"{case['framework']}-{case['model']}-{case['gpus']}gpu ({case['phase']})"
            needed = plans.setdefault((entry["effect"], entry["launches"]), {})
            if entry["stored"]:
                needed[name] = entry["needed"]
    return [LaunchPlan(*planned, needed) for planned, needed in plans.items()]


def _launches(effect: float, case: CaseBaseline, limit: Limit, alpha: float) -> int | None:
    """None where no number is enough."""
    sessions = [session for session in case.history.get(METRIC, ()) if min(session) > 0]
    if not sessions:
        return None
    noise = case.noise.get(METRIC) or learn(sessions, case.priors.get(METRIC, prior_of(METRIC)))
    smallest = abs(limit.relative) if limit.relative is not None else 0.0
    return launches_for(
        effect, noise, limit=smallest, alpha=alpha, history=[len(session) for session in sessions]
    )
