"""What one case is compared with: CaseBaseline, or, where there is nothing to compare with,
Incomparable or NoBaseline. All three answer the same questions."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import msgspec

from pytest_dnnbench.results.baselines.comparability import Difference, Recorded
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry
from pytest_dnnbench.results.records.verdict import Against, Status
from pytest_dnnbench.results.statistics.anchor import FEWEST, Anchor, anchor_of
from pytest_dnnbench.results.statistics.noise import WINDOW, Noise, Prior, prior_of

Sessions: TypeAlias = list[list[float]]
"""The launches of one metric in each session, oldest session first."""


class Earlier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a metric's sessions before the latest ones: the first of them, and how many
    there were in all."""

    first: list[list[float]]
    count: int


@dataclass(frozen=True, slots=True)
class CaseBaseline:
    """The stored sessions of a case; the latest of them are the baseline.

    `history` maps a metric to its launches in each session, without the disturbed launches of a
    time; `disturbed` are the metrics of which nothing remains. `limits` are those of the stored
    record. `noise` is there where it was learnt from more than the history, `priors` where other
    cases say something about it. `recorded` has the values that each fact which is only
    recorded, as the host name, had in these sessions. `earlier` is there where the history of a
    metric is longer than what is kept of it. `anchored` has the sessions of each metric that the
    user chose as the anchor, and `anchor_name` says which these are. `breakdown` is the newest of
    these sessions' that has one.
    """

    file: str
    saved: str | None
    sessions: int
    history: dict[str, Sessions]
    limits: dict[str, Limit] = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)
    priors: dict[str, Prior] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    recorded: Recorded = field(default_factory=dict)
    earlier: dict[str, Earlier] = field(default_factory=dict)
    anchored: dict[str, Sessions] = field(default_factory=dict)
    anchor_name: str = ""
    breakdown: BreakdownEntry | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the stored case has, comparable or not."""
        return *self.history, *(name for name in self.disturbed if name not in self.history)

    def sessions_of(self, metric: str) -> Sessions:
        """The sessions of a metric that can be compared: those whose values are all above zero."""
        sessions = self.history.get(metric, [])
        return [session for session in sessions if not session or min(session) > 0]

    def anchor_of(self, metric: str) -> Anchor | None:
        """The sessions that the user chose, else the first of a metric's history; None where it is
        too short for these to be another baseline than the latest."""
        sessions = self.sessions_of(metric)
        if chosen := self.anchored.get(metric):
            return Anchor(chosen, sessions, 0, self.anchor_name, self.prior_of(metric))
        earlier = self.earlier.get(metric)
        if earlier is None:
            return anchor_of(sessions)
        first = earlier.first
        if len(first) == earlier.count:  # all of them: the oldest that is kept follows
            first = [*first, *sessions][:WINDOW]
        if len(sessions) < FEWEST or not all(value > 0 for each in first for value in each):
            return None
        middle = len(first) // 2
        return Anchor(first, sessions, earlier.count + len(sessions) - middle)

    def anchored_at(self, anchor: "CaseBaseline", name: str) -> "CaseBaseline":
        """The same baseline beside an anchor: the latest sessions of `anchor`, which the user calls
        `name`."""
        sessions = {metric: anchor.sessions_of(metric)[-WINDOW:] for metric in anchor.history}
        return replace(self, anchored=sessions, anchor_name=name)

    def noise_of(self, metric: str) -> Noise | None:
        """The noise of a metric; None: to be learnt from `sessions_of`."""
        return self.noise.get(metric)

    def prior_of(self, metric: str) -> Prior:
        """What to assume about a metric's noise before its own sessions count."""
        return self.priors.get(metric) or prior_of(metric)

    @property
    def against(self) -> Against | None:
        """The baseline, for the verdict."""
        return Against(file=self.file, sessions=self.sessions, saved=self.saved)

    @property
    def reason(self) -> str | None:
        """Why the case cannot be compared; None: it can."""
        return None

    def status(self, worst: Status) -> Status:
        """The status of a case of which `worst` is the worst metric."""
        return worst


class _WithoutSessions:
    """Nothing to compare with; an absolute limit holds all the same."""

    __slots__ = ()

    limits: ClassVar[dict[str, Limit]] = {}
    disturbed: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ()
    recorded: ClassVar[Recorded] = {}
    breakdown: ClassVar[BreakdownEntry | None] = None

    def sessions_of(self, metric: str) -> Sessions:
        """As CaseBaseline.sessions_of."""
        return []

    def anchor_of(self, metric: str) -> Anchor | None:
        """As CaseBaseline.anchor_of."""
        return None

    def noise_of(self, metric: str) -> Noise | None:
        """As CaseBaseline.noise_of."""
        return None

    def prior_of(self, metric: str) -> Prior:
        """As CaseBaseline.prior_of."""
        return prior_of(metric)


@dataclass(frozen=True, slots=True)
class Incomparable(_WithoutSessions):
    """The baseline has the case, but of a run that may not be compared with this one."""

    file: str
    saved: str | None
    differences: list[Difference]

    @property
    def against(self) -> Against | None:
        """As CaseBaseline.against; no session counts."""
        return Against(file=self.file, sessions=0, saved=self.saved)

    @property
    def reason(self) -> str | None:
        """The facts that differ."""
        return "; ".join(map(str, self.differences))

    def status(self, worst: Status) -> Status:
        """A broken absolute limit needs no baseline; nothing else was compared."""
        return "regressed" if worst == "regressed" else "incomparable"


@dataclass(frozen=True, slots=True)
class NoBaseline(_WithoutSessions):
    """The baseline lacks the case, or there is no baseline."""

    @property
    def against(self) -> Against | None:
        """As CaseBaseline.against."""
        return None

    @property
    def reason(self) -> str | None:
        """As CaseBaseline.reason: there is nothing that the case could differ from."""
        return None

    def status(self, worst: Status) -> Status:
        """As Incomparable.status."""
        return "regressed" if worst == "regressed" else "no-baseline"


ComparedWith: TypeAlias = CaseBaseline | Incomparable | NoBaseline
