"""What a golden file takes over from a saved session, and what it refuses."""

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.metrics import YARDSTICK, metric_row
from pytest_dnnbench.results.baselines.case_baseline import Earlier
from pytest_dnnbench.results.baselines.comparability import (
    Difference,
    differences,
    facts_of,
    recorded_of,
)
from pytest_dnnbench.results.baselines.golden import (
    Golden,
    GoldenAcceptance,
    GoldenCase,
    GoldenMetric,
)
from pytest_dnnbench.results.baselines.golden_file import written_limits
from pytest_dnnbench.results.baselines.limits import limit_text, stored_limit
from pytest_dnnbench.results.baselines.stored_sessions import disturbed_text
from pytest_dnnbench.results.records.saved import SavedRun
from pytest_dnnbench.results.records.schema import Acceptance, Record
from pytest_dnnbench.results.statistics.noise import WINDOW, learn, prior_of

KEPT = 10
"""Sessions that are kept of a metric: enough to estimate noise, few enough to read."""


def update_golden(golden: Golden, run: SavedRun, accepted: Acceptance | None = None) -> list[str]:
    """Takes over every case of a saved session; returns the cases whose history begins anew.

    Raises DataError when the session is not fit, or a case regressed or has other facts, and nobody
    accepts it; and when a history would begin with launches that were all disturbed.
    """
    if accepted is None and run.unfit:
        raise DataError(f"{run.path}: {run.unfit}: accept it with a reason, or measure again")
    anew = []
    for name, record in run.cases.items():
        before = golden.cases.get(name)
        unlike = differences(before.facts, facts_of(record)) if before else []
        if accepted is None:
            _refuse_change(run, name, record, unlike)
        restart = before is not None and (bool(unlike) or record.verdict.status == "regressed")
        if restart:
            anew.append(name)
            if record.disturbed:
                raise DataError(
                    f"{run.path}: {name}: every launch was disturbed: measure again before you"
                    " accept it"
                )
        golden.cases[name] = _updated(None if restart else before, before, record, run.saved)
    if disturbed := [name for name, record in run.cases.items() if record.disturbed]:
        golden.passed_over.append(f"{run.path.name}: {disturbed_text(disturbed)}")
    if accepted is not None:
        golden.accepted.append(
            GoldenAcceptance(accepted.who, accepted.when, accepted.why, tuple(sorted(anew)))
        )
    return anew


def _refuse_change(run: SavedRun, name: str, record: Record, unlike: list[Difference]) -> None:
    regressed = record.verdict.status == "regressed" and run.session.accepted is None
    if unlike or regressed:
        what = "; ".join(map(str, unlike)) if unlike else "it regressed"
        raise DataError(f"{run.path}: {name}: {what}: accept it with a reason, or measure again")


def _updated(
    history: GoldenCase | None, before: GoldenCase | None, record: Record, saved: str
) -> GoldenCase:
    """A case after this session. `history` is what its sessions are added to, `before` what its
    limits are kept from."""
    metrics = {}
    for name in record.metrics:
        past = history.metrics.get(name) if history else None
        limited = before.metrics.get(name) if before else None
        limit = limited.limit if limited else _own_limit(record, name)
        metric = _updated_metric(name, record, past, limit)
        if metric is not None:
            metrics[name] = metric
    limits = written_limits(metrics, "the golden file")
    recorded = {name: values[0] for name, values in recorded_of([record]).items()}
    return GoldenCase(facts_of(record), metrics, limits, saved, recorded)


def _updated_metric(
    name: str, record: Record, past: GoldenMetric | None, limit: str | None
) -> GoldenMetric | None:
    """None for a metric that is not kept, and for one of which every launch was disturbed."""
    row = metric_row(name)
    undisturbed = record.undisturbed(name)
    every = [*(past.sessions if past else []), *([undisturbed] if undisturbed else [])]
    sessions, dropped = every[-KEPT:], every[:-KEPT]
    limited = row.tolerance is not None or limit is not None
    if not sessions or not (limited or row.kept):
        return None
    positive = all(value > 0 for session in sessions for value in session)
    learns = positive and (limited or name == YARDSTICK)
    noise = learn(sessions, prior_of(name)) if learns else None
    return GoldenMetric(sessions, limit, noise, _earlier(past.earlier if past else None, dropped))


def _earlier(before: Earlier | None, dropped: list[list[float]]) -> Earlier | None:
    """What is kept of sessions that make room for later ones: the first of all."""
    if not dropped:
        return before
    first, count = (before.first, before.count) if before else ([], 0)
    return Earlier([*first, *dropped][:WINDOW], count + len(dropped))


def _own_limit(record: Record, metric: str) -> str | None:
    """The limit that the session's user set, as the file's own."""
    entry = record.thresholds.get(metric)
    limit = stored_limit(metric, entry) if entry else None
    return limit_text(metric, limit) if limit else None
