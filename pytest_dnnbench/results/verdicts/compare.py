"""Compares two saved files, case by case, without running anything."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.baselines.baseline import Baseline
from pytest_dnnbench.results.baselines.comparability import facts
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.records.launches import Launches
from pytest_dnnbench.results.records.saved import SavedRecord, SavedRun
from pytest_dnnbench.results.statistics.design import alpha_per_test
from pytest_dnnbench.results.verdicts.judge import VerdictData, judge, limits_of

# Worst first.
STATUSES = ("regressed", "incomparable", "no-baseline", "noisy", "improved", "ok")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict on each case of the newer file, and the cases that only one of the two has."""

    baseline: str
    now: Path
    verdicts: dict[str, VerdictData]
    only_baseline: list[str]
    only_now: list[str]
    passed_over: list[str]

    @property
    def regressed(self) -> list[str]:
        """The cases that got worse."""
        return [name for name, verdict in self.verdicts.items() if verdict["status"] == "regressed"]

    @property
    def missing(self) -> list[str]:
        """The cases that were compared with nothing."""
        without = [
            name
            for name, one in self.verdicts.items()
            if one["status"] in ("no-baseline", "incomparable")
        ]
        return sorted({*self.only_baseline, *self.only_now, *without})

    def sorted_verdicts(self) -> list[tuple[str, VerdictData]]:
        """Worst first, then by name."""
        return sorted(
            self.verdicts.items(), key=lambda pair: (STATUSES.index(pair[1]["status"]), pair[0])
        )

    def counts(self) -> dict[str, int]:
        """Cases per status, worst first."""
        statuses = [verdict["status"] for _, verdict in self.sorted_verdicts()]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    def to_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema": 1,
            "baseline": self.baseline,
            "now": str(self.now),
            "counts": self.counts(),
            "verdicts": dict(sorted(self.verdicts.items())),
            "only_baseline": self.only_baseline,
            "only_now": self.only_now,
            "passed_over": self.passed_over,
        }


def compare(
    baseline: Baseline,
    now: SavedRun,
    *,
    layers: list[Mapping[str, Limit]],
    false_alarms: float,
    across: Collection[str] = (),
) -> Comparison:
    """Judges every case of `now`; `false_alarms` is the rate over all of them."""
    found = {}
    for name, record in now.cases.items():
        stored = baseline.of(name, facts(*(_decoded(raw) for raw in record.facts_text)), across)
        found[name] = (record, stored, limits_of(record.metrics, stored, layers))
    tests = sum(len(limits) for _, _, limits in found.values())
    alpha = alpha_per_test(false_alarms, tests)
    verdicts = {
        name: judge(*_figures(record, across), stored, limits, alpha).verdict
        for name, (record, stored, limits) in found.items()
    }
    old = set(baseline.names())
    return Comparison(
        baseline=baseline.name,
        now=now.path,
        verdicts=verdicts,
        only_baseline=sorted(old - set(now.cases)),
        only_now=sorted(set(now.cases) - old),
        passed_over=baseline.passed_over,
    )


def _figures(
    record: SavedRecord, across: Collection[str]
) -> tuple[dict[str, Launches], dict[str, str]]:
    """Across a difference the yardstick tells nothing: it may be that difference's own."""
    launches = {
        metric: record.launches(metric)
        for metric in record.metrics
        if not (across and metric == YARDSTICK)
    }
    return launches, {metric: one.better for metric, one in record.metrics.items()}


def _decoded(raw: bytes) -> Any:
    return msgspec.json.decode(raw)
