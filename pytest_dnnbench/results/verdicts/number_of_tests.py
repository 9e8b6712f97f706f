"""How many tests a session makes, between which its false-alarm rate is divided.

A test is one limited metric of one case. Every case of a session is tested at the same rate, the
one at which `compare` would test the session's saved file.
"""

from collections.abc import Mapping

from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, NoBaseline
from pytest_dnnbench.results.baselines.limits import Layers, Limit
from pytest_dnnbench.results.baselines.stored_sessions import Baseline
from pytest_dnnbench.results.verdicts.judge import limits_of


def number_of_tests(cases: Mapping[str, Layers], baseline: Baseline | None, device: str) -> int:
    """The limited metrics of all cases of a session, each by name with the limits that its user
    set.

    Counted before anything is measured: a case that the baseline has is taken to have the metrics
    that it had there; any other, those that the device can have and that have a limit by default or
    from the user.
    """
    stored = {name: stored_case(baseline, name) for name in cases}
    return sum(len(expected_limits(stored[name], cases[name], device)) for name in cases)


def stored_case(baseline: Baseline | None, name: str) -> CaseBaseline | NoBaseline:
    """What is stored of a case; NoBaseline also for a session without a baseline."""
    return NoBaseline() if baseline is None else baseline.stored(name)


def expected_limits(
    stored: CaseBaseline | NoBaseline, layers: Layers, device: str
) -> dict[str, Limit]:
    """The limits of a case that is not measured yet."""
    possible = (name for name, metric in METRICS.items() if device in metric.devices)
    return limits_of(stored.metrics or possible, stored, layers)
