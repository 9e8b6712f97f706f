"""The golden file as a baseline: a machine's baseline that is committed and edited by hand, like a
lock file.

Here: its cases in memory. Not here: the format (golden_file.py), and what an update takes over from
a session (golden_update.py).
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.baselines.case_baseline import (
    CaseBaseline,
    ComparedWith,
    Earlier,
    Incomparable,
    NoBaseline,
)
from pytest_dnnbench.results.baselines.comparability import Facts, differences
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.baselines.stored_sessions import depends_on_speed, speed_text
from pytest_dnnbench.results.records.schema import Acceptance
from pytest_dnnbench.results.statistics.noise import Noise, learn, prior_of
from pytest_dnnbench.results.statistics.other_speeds import other_speeds


class GoldenMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One metric of one case: the launches of each of the latest sessions, oldest first, the limit
    that its user wrote, and the first of the sessions that are not kept any more."""

    sessions: list[list[float]]
    limit: str | None = None
    noise: Noise | None = None
    earlier: Earlier | None = None


class GoldenAcceptance(Acceptance, frozen=True, forbid_unknown_fields=True):
    """An acceptance, and the cases whose history began anew with it."""

    cases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One case: all its facts, its metrics, their limits, when it was last updated, and the facts
    of that session that are only recorded, as the host name."""

    facts: Facts
    metrics: dict[str, GoldenMetric]
    limits: dict[str, Limit]
    updated: str = ""
    recorded: dict[str, Any] = field(default_factory=dict)


class Golden:
    """A golden file as a Baseline. `passed_over` says what an update passed over, and which
    sessions of a case do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.passed_over: list[str] = []
        self.cases: dict[str, GoldenCase] = {}
        self.accepted: list[GoldenAcceptance] = []

    def names(self) -> list[str]:
        """The cases in it."""
        return list(self.cases)

    def facts(self) -> list[Facts]:
        """As Baseline.facts."""
        return [case.facts for case in self.cases.values()]

    def of(self, name: str, now: Facts, across: Collection[str] = ()) -> ComparedWith:
        """As Baseline.of."""
        case = self.cases.get(name)
        if case is None:
            return NoBaseline()
        if unlike := differences(case.facts, now, across):
            return Incomparable(self.name, case.updated or None, unlike)
        return self._baseline(case)

    def stored(self, name: str) -> CaseBaseline | NoBaseline:
        """As Baseline.stored."""
        return self._baseline(self.cases[name]) if name in self.cases else NoBaseline()

    def _baseline(self, case: GoldenCase) -> CaseBaseline:
        metrics = self._at_usual_speed(case.metrics)
        return CaseBaseline(
            file=self.name,
            saved=case.updated or None,
            sessions=max((len(metric.sessions) for metric in metrics.values()), default=0),
            history={name: metric.sessions for name, metric in metrics.items()},
            limits=case.limits,
            noise={name: metric.noise for name, metric in metrics.items() if metric.noise},
            earlier={name: metric.earlier for name, metric in metrics.items() if metric.earlier},
            recorded={name: (value,) for name, value in case.recorded.items()},
        )

    def _at_usual_speed(self, metrics: dict[str, GoldenMetric]) -> dict[str, GoldenMetric]:
        """The metrics of a case, times without the sessions in which the machine itself ran at
        another speed than in most; these are noted."""
        yardstick = metrics.get(YARDSTICK)
        speeds = other_speeds([median(each) for each in yardstick.sessions] if yardstick else [])
        if not (yardstick and speeds):
            return metrics
        count = len(yardstick.sessions)
        for place, speed in speeds.items():
            session = f"{self.name}: session {place + 1} of {count}: "
            # Once for all cases: each has its own readings of the same machine.
            if not any(note.startswith(session) for note in self.passed_over):
                self.passed_over.append(session + speed_text(speed))
        return {
            # Sessions of which every launch was disturbed are not kept, so places may differ.
            name: _without(name, metric, speeds)
            if depends_on_speed(name) and len(metric.sessions) == count
            else metric
            for name, metric in metrics.items()
        }


def _without(name: str, metric: GoldenMetric, places: Collection[int]) -> GoldenMetric:
    """A metric without the sessions at these places."""
    kept = [each for place, each in enumerate(metric.sessions) if place not in places]
    noise = learn(kept, prior_of(name)) if metric.noise else None
    return msgspec.structs.replace(metric, sessions=kept, noise=noise)
