"""What a session can detect, said before anything is measured: with few stored sessions nobody
knows how much sessions differ, and only large changes can be told from that."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_dnnbench.counted import counted, verb
from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, NoBaseline
from pytest_dnnbench.results.baselines.limits import Layers, Limit
from pytest_dnnbench.results.baselines.stored_sessions import Baseline
from pytest_dnnbench.results.statistics.anchor import rate_of_latest
from pytest_dnnbench.results.statistics.decision import POWER
from pytest_dnnbench.results.statistics.design import precision
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import learn
from pytest_dnnbench.results.statistics.suite_noise import FEWEST_FIRST
from pytest_dnnbench.results.verdicts.number_of_tests import expected_limits, stored_case

ENOUGH = 5
"""From so many stored sessions on, a change of 5% is found at 1% of noise (docs/statistics.md)."""


@dataclass(frozen=True, slots=True)
class Foresight:
    """The smallest slowdown of each stored case that the session would detect with probability
    POWER, a positive fraction, and how many sessions are stored at most."""

    slowdowns: Mapping[str, float]
    sessions: int
    launches: int

    def __str__(self) -> str:
        middle, most = statistics.median(self.slowdowns.values()), max(self.slowdowns.values())
        stored = f"{counted(self.sessions, 'session')} {verb(self.sessions, 'is', 'are')}"
        widest = f", in the noisiest from {most:.0%} on" if most > 1.2 * middle else ""
        among_calm = self.sessions == 1 and len(self.slowdowns) >= FEWEST_FIRST
        earlier = "; earlier, where most cases are as fast as before" if among_calm else ""
        return (
            f"{stored} stored, so how much sessions differ is hardly known yet: with"
            f" {counted(self.launches, 'launch')} a slowdown is detected from {middle:.0%} on in"
            f" half of the cases{widest}{earlier}. What helps: store {ENOUGH} sessions of the old"
            " state or more before you look for smaller differences, or measure the old state next"
            " to the new one (--dnn-against); more launches alone help little"
        )


def foresee(
    baseline: Baseline,
    cases: Mapping[str, Layers],
    *,
    launches: int,
    false_alarms: float,
    device: str,
) -> Foresight | None:
    """What the session can detect; None where enough sessions are stored, and where nothing is
    stored of its cases. `cases` maps each of them to the limits that its user set."""
    stored = {name: stored_case(baseline, name) for name in cases}
    limits = {name: expected_limits(stored[name], cases[name], device) for name in cases}
    alpha = alpha_per_test(false_alarms, sum(map(len, limits.values())))
    few = {
        name: case
        for name, case in stored.items()
        if isinstance(case, CaseBaseline) and case.sessions_of(THROUGHPUT)
    }
    sessions = max((len(case.sessions_of(THROUGHPUT)) for case in few.values()), default=ENOUGH)
    if sessions >= ENOUGH:
        return None
    slowdowns = {
        name: _slowdown(case, limits[name][THROUGHPUT], launches, alpha)
        for name, case in few.items()
        if THROUGHPUT in limits[name] and name in few
    }
    return Foresight(slowdowns, sessions, launches) if slowdowns else None


def _slowdown(case: CaseBaseline | NoBaseline, limit: Limit, launches: int, alpha: float) -> float:
    """The smallest that all launches show, those of the confirmation among them."""
    sessions = case.sessions_of(THROUGHPUT)
    noise = case.noise_of(THROUGHPUT) or learn(sessions, case.prior_of(THROUGHPUT))
    both = 2 * launches
    planned = replace(noise, launch_dof=noise.launch_dof + both - 1)
    exactness = precision(planned, both, [len(session) for session in sessions])
    bound = -math.log1p(limit.relative) if limit.relative is not None else 0.0
    reach = max(bound, exactness.reach(rate_of_latest(alpha))) + exactness.reach(1 - POWER)
    return -math.expm1(-reach)
