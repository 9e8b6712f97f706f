"""What became of a case since its baseline, as its record holds it. Decided in
results/verdicts/."""

from typing import Literal

import msgspec

Status = Literal["ok", "partial", "improved", "noisy", "no-baseline", "incomparable", "regressed"]
"""`partial`: what was judged is ok, and not every limited metric could be judged."""


class MachineChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The seconds of the machine's yardstick: of the baseline's sessions, and now.

    `speed` is the change of the machine's speed, a fraction: below zero for a slower machine.
    `explains`: the change of the metric need not be the case's own.
    """

    baseline_s: float
    now_s: float
    speed: float
    explains: bool


class MetricVerdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The verdict on one metric.

    `baseline` and `now` are in the metric's unit; `change`, `interval` (95%) and `limit` are signed
    fractions of the baseline: limit -0.05 means "fails when 5% lower". Under an absolute limit
    `limit` is null, `limit_absolute` is in the metric's unit, and so is `baseline`, which is the
    same: status "ok" and change 0.04 mean "at least 3000" is held, and exceeded by 4%. `widened`:
    the noise supports no limit as small as the one asked for. `source` says who set the limit.
    `confidence` is that of the status; for "noisy", that of a change for the worse.
    `minimum_detectable` is the change for the worse that would be detected with 95% probability, a
    positive fraction. `launches_needed`: for "noisy", the launches that would settle it; null: no
    number would. `machine` is there when the machine's speed changed too. `disturbance` says how
    many launches were disturbed and by what; `left_out` of them do not count. `warning` says why a
    change is hard to believe. `since` is there where the metric was compared with the first
    sessions of its history, because it declines too slowly for the latest ones to show.
    """

    status: Status
    baseline: float
    now: float
    change: float
    interval: tuple[float, float]
    limit: float | None
    limit_absolute: float | None
    widened: bool
    source: str
    confidence: float
    minimum_detectable: float
    launches_needed: int | None
    machine: MachineChange | None = None
    disturbance: str | None = None
    left_out: int = 0
    warning: str | None = None
    since: str | None = None


class Against(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The baseline: its file, how many of its sessions count, and when the newest was saved."""

    file: str
    sessions: int
    saved: str | None


class Confirmation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The second look at a case: fresh launches, each metric's value in each, why each launch was
    disturbed (or null), and the verdicts of the first look."""

    launches: int
    per_launch: dict[str, list[float]]
    disturbed: list[str | None]
    first: dict[str, MetricVerdict]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The verdict on a case: the worst of its metrics. `reason` says why it could not be compared;
    `differs` names the facts of it, as `--dnn-compare-across` takes them.

    `unjudged` maps each limited metric that was not judged to the reason. `elsewhere` lists the
    facts that are only recorded and differ from those of the baseline's sessions, as in "hostname:
    node17 -> node42".
    """

    status: Status = "no-baseline"
    against: Against | None = None
    reason: str | None = None
    metrics: dict[str, MetricVerdict] = {}
    unjudged: dict[str, str] = {}
    elsewhere: list[str] = []
    differs: list[str] = []
    confirmation: Confirmation | None = None
