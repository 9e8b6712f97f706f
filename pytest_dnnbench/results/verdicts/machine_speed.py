"""Whether the machine itself was as fast as for the baseline, by its yardstick (rank/yardstick.py,
rank/gpu_yardstick.py).

On a machine that is shared, or hot, every case is slower for minutes or days, some more than the
yardstick. So a change of the yardstick explains a change of a case's time in the same direction up
to EXPLAINED times as large. What goes beyond that is the case's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_dnnbench.metrics import YARDSTICK, metric_row
from pytest_dnnbench.results.baselines.case_baseline import ComparedWith
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.verdict import MachineChange
from pytest_dnnbench.results.statistics.decision import Decision, decide
from pytest_dnnbench.results.statistics.noise import median

EXPLAINED = 2.5
"""docs/statistics.md says what this was measured to be."""

SMALLEST, ALPHA = 0.02, 0.01
"""The machine counts as changed from this difference on, if noise of its own explains the
difference at less than this rate."""


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """The seconds of the yardstick of a machine that has changed: of the baseline's sessions, and
    now."""

    baseline_s: float
    now_s: float

    @property
    def speed(self) -> float:
        """The change of the machine's speed, a fraction: below zero for a slower one."""
        return self.baseline_s / self.now_s - 1

    def explains(self, metric: str, decision: Decision) -> bool:
        """Whether a change of this metric need not be the case's own."""
        row = metric_row(metric)
        if not row.timed or metric == YARDSTICK:
            return False
        change = math.log(decision.now / decision.baseline)
        faster = change if row.better == "higher" else -change
        return 0 <= faster / math.log(self.baseline_s / self.now_s) <= EXPLAINED

    def entry(self, metric: str, decision: Decision) -> MachineChange:
        """For the verdict on this metric."""
        return MachineChange(
            baseline_s=self.baseline_s,
            now_s=self.now_s,
            speed=self.speed,
            explains=self.explains(metric, decision),
        )


def machine_change(
    measured: Mapping[str, Launches], fresh: Mapping[str, Launches], baseline: ComparedWith
) -> MachineSpeed | None:
    """The machine's speed where it has changed since the baseline. None where it has not, and where
    one of the two has no yardstick. `fresh` are the launches of a confirmation, if there was
    one."""
    history, launches = baseline.sessions_of(YARDSTICK), _yardsticks(measured, fresh)
    if not history or launches is None:
        return None
    decision = decide(
        launches.trusted,
        history,
        better="lower",
        limit=SMALLEST,
        alpha=ALPHA,
        noise=baseline.noise_of(YARDSTICK),
        prior=baseline.prior_of(YARDSTICK),
    )
    if decision.status not in ("regressed", "improved"):
        return None
    return MachineSpeed(decision.baseline, decision.now)


def machine_drift(
    measured: Mapping[str, Launches], fresh: Mapping[str, Launches], baseline: ComparedWith
) -> MachineSpeed | None:
    """As `machine_change`, since the first sessions of the history. The machine counts as changed
    from SMALLEST on, however uncertain its yardstick: a decline that may be the machine's is looked
    at again in the next session."""
    anchor, launches = baseline.anchor_of(YARDSTICK), _yardsticks(measured, fresh)
    if anchor is None or launches is None:
        return None
    speed = MachineSpeed(anchor.figure, median(launches.trusted))
    return speed if abs(math.log(speed.now_s / speed.baseline_s)) >= SMALLEST else None


def _yardsticks(measured: Mapping[str, Launches], fresh: Mapping[str, Launches]) -> Launches | None:
    if YARDSTICK not in measured:
        return None
    launches = measured[YARDSTICK]
    return launches.followed_by(fresh[YARDSTICK]) if YARDSTICK in fresh else launches
