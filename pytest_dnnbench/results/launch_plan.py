"""How many launches a session needs to find a change of a given size, from the noise of its baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench.results.baseline import Baseline, CaseBaseline
from pytest_dnnbench.results.design import alpha_per_test, launches_for
from pytest_dnnbench.results.judge import limits_of
from pytest_dnnbench.results.limits import Limit
from pytest_dnnbench.results.noise import learn, prior_of

# The metric whose changes are to be found; the others need no more launches.
METRIC = "throughput_img_s"

Layers = Sequence[Mapping[str, Limit]]


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The launches of each case of a session. `beyond`: cases in which no number would find the change: their noise
    between sessions is too large, or too little of it is stored."""

    launches: int
    beyond: tuple[str, ...]


def plan_launches(
    effect: float, baseline: Baseline, cases: Mapping[str, Layers], *, false_alarms: float, at_least: int
) -> LaunchPlan:
    """As many launches as the case that needs the most of them, at least `at_least`.

    `cases` maps each case to the limits that its user set, nearest first. Cases that the baseline lacks need none.
    """
    stored = {name: baseline.stored(name) for name in cases}
    limits = {
        name: limits_of(case.history, case, cases[name]) if case is not None else {} for name, case in stored.items()
    }
    alpha = alpha_per_test(false_alarms, sum(len(found) for found in limits.values()))
    counts = {
        name: _launches(effect, case, limits[name][METRIC], alpha)
        for name, case in stored.items()
        if case is not None and METRIC in limits[name]
    }
    known = [count for count in counts.values() if count is not None]
    return LaunchPlan(max([at_least, *known]), tuple(name for name, count in counts.items() if count is None))


def _launches(effect: float, case: CaseBaseline, limit: Limit, alpha: float) -> int | None:
    """None where no number is enough."""
    sessions = case.history[METRIC]
    noise = case.noise.get(METRIC) or learn(sessions, case.priors.get(METRIC, prior_of(METRIC)))
    smallest = abs(limit.relative) if limit.relative is not None else 0.0
    return launches_for(effect, noise, limit=smallest, alpha=alpha, history=[len(session) for session in sessions])
