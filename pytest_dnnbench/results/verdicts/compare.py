"""Compares two saved files, case by case, without running anything."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_dnnbench.metrics import YARDSTICK, metric_row
from pytest_dnnbench.results.baselines.case_baseline import ComparedWith
from pytest_dnnbench.results.baselines.comparability import check_across, elsewhere, facts_of
from pytest_dnnbench.results.baselines.limits import Layers, Limit
from pytest_dnnbench.results.baselines.stored_sessions import Baseline
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.saved import SavedRun, no_collection
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.verdict import Status, Verdict
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.verdicts.first_comparison import (
    at_first_comparison,
    calmer_priors,
    early_of_record,
)
from pytest_dnnbench.results.verdicts.judge import judge, limits_of

SCHEMA = 1
"""The version of the output of `compare --json`. History: 1, the first."""

STATUSES: Sequence[Status] = (
    "regressed", "incomparable", "no-baseline", "noisy", "improved", "partial", "ok",
)  # fmt: skip
"""Worst first."""

SAME_SESSION = "this is a session of the baseline itself, and is not compared with itself"


@dataclass(frozen=True, slots=True)
class SessionComparison:
    """The verdict on each case of the newer file, and the cases that only one of the two has."""

    baseline: str
    now: SavedRun
    verdicts: dict[str, Verdict]
    only_baseline: list[str]
    only_now: list[str]
    passed_over: list[str]

    @property
    def regressed(self) -> list[str]:
        """The cases that got worse."""
        return [name for name, verdict in self.verdicts.items() if verdict.status == "regressed"]

    @property
    def missing(self) -> list[str]:
        """The cases that were compared with nothing, or not in every limited metric."""
        without = [
            name
            for name, verdict in self.verdicts.items()
            if verdict.status in ("no-baseline", "incomparable", "partial")
        ]
        return sorted({*self.only_baseline, *self.only_now, *without})

    def sorted_verdicts(self) -> list[tuple[str, Verdict]]:
        """Worst first, then by name."""
        return sorted(
            self.verdicts.items(), key=lambda pair: (STATUSES.index(pair[1].status), pair[0])
        )

    def counts(self) -> dict[str, int]:
        """Cases per status, worst first."""
        statuses = [verdict.status for _, verdict in self.sorted_verdicts()]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    def to_data(self) -> dict[str, Any]:
        """Plain data, for programs."""
        return {
            "schema": SCHEMA,
            "baseline": self.baseline,
            "now": str(self.now.path),
            "counts": self.counts(),
            "verdicts": msgspec.to_builtins(dict(sorted(self.verdicts.items()))),
            "only_baseline": self.only_baseline,
            "only_now": self.only_now,
            "passed_over": self.passed_over,
        }


def compare(
    baseline: Baseline,
    now: SavedRun,
    *,
    layers: Layers,
    false_alarms: float,
    across: Collection[str] = (),
) -> SessionComparison:
    """Judges every case of `now`. `layers` are the user's limits; `false_alarms` is the rate over
    all cases; `across` names facts that may differ. Raises UsageError for one that no side has."""
    if across:
        check_across(across, [*baseline.facts(), *map(facts_of, now.cases.values())])
    with no_collection():
        return _compare(baseline, now, layers, false_alarms, across)


def _compare(
    baseline: Baseline,
    now: SavedRun,
    layers: Layers,
    false_alarms: float,
    across: Collection[str],
) -> SessionComparison:
    stored = {
        name: baseline.of(name, facts_of(record), across) for name, record in now.cases.items()
    }
    priors = calmer_priors(
        (stored[name], early_of_record(record)) for name, record in now.cases.items()
    )
    stored = {name: at_first_comparison(each, priors) for name, each in stored.items()}
    limits = {
        name: limits_of(record.metrics, stored[name], layers) for name, record in now.cases.items()
    }
    alpha = alpha_per_test(false_alarms, sum(map(len, limits.values())))
    verdicts = {
        name: _judged(record, now.saved, stored[name], limits[name], alpha, across)
        for name, record in now.cases.items()
    }
    old = set(baseline.names())
    return SessionComparison(
        baseline=baseline.name,
        now=now,
        verdicts=verdicts,
        only_baseline=sorted(old - set(now.cases)),
        only_now=sorted(set(now.cases) - old),
        passed_over=baseline.passed_over,
    )


def _judged(
    record: Record,
    saved: str,
    stored: ComparedWith,
    limits: Mapping[str, Limit],
    alpha: float,
    across: Collection[str],
) -> Verdict:
    if is_of_baseline(record, saved, stored):
        return Verdict(status="incomparable", against=stored.against, reason=SAME_SESSION)
    verdict = judge(_measured(record, across), stored, limits, alpha).verdict
    return msgspec.structs.replace(verdict, elsewhere=elsewhere(stored.recorded, record))


def is_of_baseline(record: Record, saved: str, stored: ComparedWith) -> bool:
    """Whether the record, saved at `saved`, is itself one of the baseline's sessions: its launches
    are, of every time that both have, to the last digit. Where every launch was disturbed, a
    baseline keeps no times of it; then the times of saving tell, to the microsecond."""
    both = [metric for metric in record.metrics if stored.sessions_of(metric)]
    times = [metric for metric in both if metric_row(metric).timed]
    against = stored.against
    if not times and not (against is not None and saved and saved == against.saved):
        return False
    return bool(both) and all(
        record.undisturbed(metric) in stored.sessions_of(metric) for metric in times or both
    )


def _measured(record: Record, across: Collection[str]) -> dict[str, Launches]:
    """The launches to judge. Across a difference the yardstick explains nothing: its change may
    come from that difference."""
    return {
        metric: record.measured(metric)
        for metric in record.metrics
        if not (across and metric == YARDSTICK)
    }
