"""What a machine can find, from A/A launches: pure, with the statistics of the verdicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.results.statistics.decision import POWER
from pytest_dnnbench.results.statistics.design import FEWEST_LAUNCHES, precision
from pytest_dnnbench.results.statistics.false_alarms import FALSE_ALARMS
from pytest_dnnbench.results.statistics.noise import TIME, WINDOW, Noise, learn

COUNTS = (3, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Finding:
    """The smallest slowdown that is detected with probability POWER, a positive fraction, with so
    many launches: of two states measured side by side, and against WINDOW stored sessions that
    differ no more than their launches do."""

    launches: int
    side_by_side: float
    stored: float


def learn_noise(throughputs: Sequence[float]) -> Noise | None:
    """The noise of the launches; None for fewer than FEWEST_LAUNCHES."""
    if len(throughputs) < FEWEST_LAUNCHES:
        return None
    return learn([throughputs], TIME)


def findings(noise: Noise) -> list[Finding]:
    """What each of COUNTS launches finds."""
    return [
        Finding(
            count,
            _smallest(replace(noise, ratios=((0.0, 1.0),)), count, [count]),
            _smallest(replace(noise, ratios=((1.0, 1.0),)), count, [count] * WINDOW),
        )
        for count in COUNTS
    ]


def _smallest(noise: Noise, launches: int, history: Sequence[int]) -> float:
    """Of one test at the session's false-alarm rate."""
    exactness = precision(noise, launches, history)
    reach = exactness.reach(FALSE_ALARMS) + exactness.reach(1 - POWER)
    return -math.expm1(-reach)
