"""First comparisons: what a session's own cases say of how much sessions differ, where a single
session is stored and the history says nothing of it yet.

Every round but the last is over when the first case gets its verdict. The launches of those rounds
count, in the session and when its saved file is compared, so that both judge alike. Only times of
the cases count: memory does not differ by chance, and the yardstick is not of a case.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, ComparedWith
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.side_by_side import TIMES
from pytest_dnnbench.results.statistics.noise import Prior
from pytest_dnnbench.results.statistics.suite_noise import calmer

EarlyLaunches = Mapping[str, Launches]
"""The launches of each time of one case, but for those of the last round."""


def early_of_record(record: Record) -> EarlyLaunches:
    """The early launches of a case that was saved."""
    entries = {metric: record.metrics[metric] for metric in TIMES if metric in record.metrics}
    return {
        metric: launches_of(metric, entry.per_launch[:-1], record.reasons[:-1])
        for metric, entry in entries.items()
    }


def early_of_launches(launches: Sequence[Launch]) -> EarlyLaunches:
    """The early launches of a case whose last round is to come, from all launches of the others."""
    reasons = [launch.conditions.disturbed for launch in launches]
    figures = {
        metric: [launch.figures(METRICS[metric])[0] for launch in launches] for metric in TIMES
    }
    return {metric: launches_of(metric, values, reasons) for metric, values in figures.items()}


def calmer_priors(cases: Iterable[tuple[ComparedWith, EarlyLaunches]]) -> dict[str, Prior]:
    """The prior of each time, where the cases of a session that have a single stored session say
    that sessions differ less than is assumed."""
    priors: dict[str, Prior] = {}
    pairs: dict[str, list[tuple[list[float], Sequence[float]]]] = defaultdict(list)
    for baseline, early in cases:
        for metric, launches in early.items():
            values = launches.undisturbed
            if _is_first(baseline, metric) and values and min(values) > 0:
                pairs[metric].append((baseline.sessions_of(metric)[0], values))
                priors[metric] = baseline.prior_of(metric)
    return {
        metric: calmer(prior, pairs[metric], METRICS[metric].better)
        for metric, prior in priors.items()
    }


def at_first_comparison(baseline: ComparedWith, priors: Mapping[str, Prior]) -> ComparedWith:
    """A baseline with the priors of `calmer_priors`, where they are for it."""
    if not isinstance(baseline, CaseBaseline):
        return baseline
    first = {metric: prior for metric, prior in priors.items() if _is_first(baseline, metric)}
    return replace(baseline, priors={**baseline.priors, **first}) if first else baseline


def _is_first(baseline: ComparedWith, metric: str) -> bool:
    return len(baseline.sessions_of(metric)) == 1 and baseline.noise_of(metric) is None
