"""The noise of a case in words, with the smallest change that it lets a session detect."""

from collections.abc import Sequence

from pytest_dnnbench.counted import counted
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.baselines.limits import Limit, default_limit
from pytest_dnnbench.results.statistics.anchor import rate_of_latest
from pytest_dnnbench.results.statistics.decision import POWER, decide
from pytest_dnnbench.results.statistics.design import launches_for
from pytest_dnnbench.results.statistics.false_alarms import FALSE_ALARMS, alpha_per_test
from pytest_dnnbench.results.statistics.noise import Noise

INTERESTING = 0.05
"""The change that users of training benchmarks care for."""


def noise_summary(
    metric: str,
    session: Sequence[float],
    history: Sequence[Sequence[float]],
    noise: Noise,
    limit: Limit | None,
    *,
    false_alarms: float = FALSE_ALARMS,
    tests: int = 1,
) -> str:
    """One line: the noise, the smallest change that a session of as many launches detects, and the
    launches that would detect INTERESTING.

    `false_alarms` is the rate of a session of so many `tests`. Of a metric without a row, which no
    session judges, the noise alone is told.
    """
    sessions = f"by {noise.session_sd:.2%}" if noise.sessions != 1 else "by what one cannot tell"
    spread = f"{metric}: launches differ by {noise.launch_sd:.2%}, sessions {sessions}"
    if metric not in METRICS:
        return f"{spread}; no metric of this installation, so it is not judged"
    size = _size(metric, limit)
    alpha = rate_of_latest(alpha_per_test(false_alarms, tests))
    better = METRICS[metric].better
    decision = decide(session, history, better=better, limit=size, alpha=alpha, noise=noise)
    needed = launches_for(
        INTERESTING,
        noise,
        limit=size,
        alpha=alpha,
        power=POWER,
        history=[len(launches) for launches in history],
    )
    enough = counted(needed, "launch") if needed else "no number of launches"
    return (
        f"{spread}; detects {decision.minimum_detectable:.1%} with"
        f" {counted(len(session), 'launch')}; {enough} would detect a {INTERESTING:.0%} change"
    )


def _size(metric: str, limit: Limit | None) -> float:
    if limit is not None and limit.relative is not None:
        return abs(limit.relative)
    default = default_limit(metric)
    return abs(default.relative) if default and default.relative is not None else 0.0
