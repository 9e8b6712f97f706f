"""Memory that an allocator's luck moves by one request from session to session: no false alarm, and
no true change missed."""

import random

import pytest

from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.limits import default_limit, parse_limit
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.verdict import MetricVerdict
from pytest_dnnbench.results.verdicts.judge import judge

ALLOCATED, CACHED = "allocated_peak_bytes", "cached_peak_bytes"
MIB = 2.0**20
REQUEST = {ALLOCATED: 2 * MIB, CACHED: 20 * MIB}
CASES, LAUNCHES = 36, 3


def held(
    metric: str, now: float, past: list[float], limit: str | None = None
) -> tuple[MetricVerdict, bool]:
    """The verdict on a session at this level, and whether the case is suspect."""
    history = {metric: [[level] * LAUNCHES for level in past]}
    size = parse_limit(metric, limit, "test") if limit else default_limit(metric)
    assert size is not None
    measured = {metric: Launches((now,) * LAUNCHES)}
    look = judge(measured, CaseBaseline("a.json", None, len(past), history), {metric: size}, 1e-4)
    return look.verdict.metrics[metric], bool(look.suspects)


@pytest.mark.parametrize("metric", [ALLOCATED, CACHED])
@pytest.mark.parametrize("stored", [1, 3, 5, 20])
def test_luck_in_one_session_of_twenty_is_no_regression(metric: str, stored: int) -> None:
    rng = random.Random(stored)
    for _ in range(100):
        levels = [rng.uniform(20, 4000) * MIB for _ in range(CASES)]
        for level in levels:
            past = [level + REQUEST[metric] * (rng.random() < 0.05) for _ in range(stored)]
            now = level + REQUEST[metric] * (rng.random() < 0.05)
            verdict, suspect = held(metric, now, past)
            assert verdict.status != "regressed"
            assert not suspect


@pytest.mark.parametrize(("metric", "smallest"), [(ALLOCATED, 41 * MIB), (CACHED, 401 * MIB)])
def test_five_percent_more_are_called_from_a_size_on(metric: str, smallest: float) -> None:
    more = 1.05 if metric == ALLOCATED else 1.055
    for level in (smallest, 10 * smallest):
        assert held(metric, level * more, [level] * 3)[0].status == "regressed"
        assert held(metric, level * more, [level] * 3)[1]


def test_a_users_smaller_limit_is_as_small_as_the_allocator_allows() -> None:
    level = 100 * MIB
    verdict, _ = held(ALLOCATED, level + 2 * MIB, [level] * 3, limit="+0.1%")
    assert verdict.status == "ok"
    assert verdict.limit == pytest.approx(0.02, rel=1e-3)
    assert verdict.widened
    larger, _ = held(ALLOCATED, 40 * level + 5 * MIB, [40 * level] * 3, limit="+0.1%")
    assert larger.status == "regressed"
    assert larger.limit == pytest.approx(0.001, rel=0.1)


def test_a_figure_below_one_request_may_nearly_double() -> None:
    assert held(ALLOCATED, 1.9 * MIB, [MIB] * 3)[0].status == "ok"
    assert held(ALLOCATED, 2.1 * MIB, [MIB] * 3)[0].status == "regressed"
