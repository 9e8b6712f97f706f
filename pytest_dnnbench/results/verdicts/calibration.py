"""What is known of a case's noise, and the smallest change that it lets one find."""

from collections.abc import Sequence

from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.baselines.limits import Limit, default_limit
from pytest_dnnbench.results.statistics.decision import POWER, decide
from pytest_dnnbench.results.statistics.design import alpha_per_test, launches_for
from pytest_dnnbench.results.statistics.noise import Noise

# The change that users of training benchmarks care for.
INTERESTING = 0.05


def summary(
    metric: str,
    session: Sequence[float],
    history: Sequence[Sequence[float]],
    noise: Noise,
    limit: Limit | None,
    *,
    tests: int = 1,
) -> str:
    """One line: the noise, the minimum detectable change of such a session, the launches that find
    5%."""
    size = _size(metric, limit)
    alpha = alpha_per_test(0.01, tests)
    better = METRICS[metric].better
    decision = decide(session, history, better=better, limit=size, alpha=alpha, noise=noise)
    needed = launches_for(
        INTERESTING,
        noise,
        limit=size,
        alpha=alpha,
        power=POWER,
        history=[len(one) for one in history],
    )
    enough = (
        f"{needed} launches find {INTERESTING:.0%}"
        if needed
        else f"no number of launches finds {INTERESTING:.0%}"
    )
    return (
        f"{metric}: launches differ by {noise.launch_sd:.2%}, sessions by {noise.session_sd:.2%};"
        f" finds {decision.minimum_detectable:.1%} with {len(session)} launches; {enough}"
    )


def _size(metric: str, limit: Limit | None) -> float:
    if limit is not None and limit.relative is not None:
        return abs(limit.relative)
    default = default_limit(metric)
    return abs(default.relative) if default and default.relative is not None else 0.0
