"""Whether the machine itself was as fast as for the baseline, by its yardstick (rank/yardstick.py).

On a machine that is shared, or hot, every case is slower for minutes or days, some more than the
yardstick. So a change of the yardstick explains a change of a case's time in the same direction up
to EXPLAINED times as large. What goes beyond that is the case's own.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_dnnbench.metrics import METRICS, YARDSTICK
from pytest_dnnbench.results.baselines.baseline import CaseBaseline
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.statistics.decision import Decision, decide
from pytest_dnnbench.results.statistics.noise import prior_of

# docs/statistics.md says what this was measured to be.
EXPLAINED = 2.5
# The machine counts as changed from this difference on, where its own noise does not explain it at
# this rate.
SMALLEST, ALPHA = 0.02, 0.01


@dataclass(frozen=True, slots=True)
class MachineChange:
    """The seconds of the yardstick: of the baseline's sessions, and now."""

    baseline_s: float
    now_s: float

    @property
    def speed(self) -> float:
        """The change of the machine's speed, a fraction: below zero for a slower one."""
        return self.baseline_s / self.now_s - 1

    def explains(self, metric: str, decision: Decision) -> bool:
        """Whether a change of this metric need not be the case's own."""
        known = METRICS.get(metric)
        if known is None or not known.timed or metric == YARDSTICK:
            return False
        faster = math.log(decision.now / decision.baseline) * (
            1 if known.better == "higher" else -1
        )
        return 0 <= faster / math.log(self.baseline_s / self.now_s) <= EXPLAINED

    def entry(self, metric: str, decision: Decision) -> dict[str, Any]:
        """For the record of the verdict on this metric."""
        return {**asdict(self), "speed": self.speed, "explains": self.explains(metric, decision)}


def machine_change(
    measured: Mapping[str, Launches], again: Mapping[str, Launches] | None, found: object
) -> MachineChange | None:
    """The change of the machine since the baseline; None where there is none, or nothing to tell it
    by."""
    if not isinstance(found, CaseBaseline) or YARDSTICK not in measured:
        return None
    history = [
        session
        for session in found.history.get(YARDSTICK, [])
        if all(seconds > 0 for seconds in session)
    ]
    if not history:
        return None
    fresh = (again or {}).get(YARDSTICK)
    everything = measured[YARDSTICK].followed_by(fresh) if fresh else measured[YARDSTICK]
    decision = decide(
        everything.believed,
        history,
        better="lower",
        limit=SMALLEST,
        alpha=ALPHA,
        noise=found.noise.get(YARDSTICK),
        prior=found.priors.get(YARDSTICK, prior_of(YARDSTICK)),
    )
    if decision.status not in ("regressed", "improved"):
        return None
    return MachineChange(decision.baseline, decision.now)
