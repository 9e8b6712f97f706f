"""The golden file: a machine's baseline that is committed and edited by hand, like a lock file.

    {
     "dnnbench_golden": 1,
     "machine": {facts that all cases share},
     "accepted": [{who, when, why, cases}],
     "cases": {
      "test_steps.py::test_train[ddp-resnet18-2gpu]": {
       "facts": {its other facts},
       "metrics": {
        "throughput": {"limit": "-5%", "sessions": [[3010.2, 3004.8, 3012.0]], "noise": {...}}

Sorted, one line per metric. `limit` is the user's to add, as on the command line; an update keeps
it. An unknown key is an error, so that a misspelt one never silently does nothing.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.metrics import METRICS, YARDSTICK
from pytest_dnnbench.results.baselines.baseline import CaseBaseline, Incomparable, disturbed_text
from pytest_dnnbench.results.baselines.comparability import Facts, differences, facts
from pytest_dnnbench.results.baselines.limits import Limit, limit_text, parse_limit, stored_limit
from pytest_dnnbench.results.records.json_text import check_json, read_bytes
from pytest_dnnbench.results.records.saved import Acceptance, SavedRecord, SavedRun
from pytest_dnnbench.results.statistics.noise import Noise, learn, prior_of

# History: 1, the first.
GOLDEN_SCHEMA = 1
KEY = "dnnbench_golden"

# Sessions that are kept of a metric: enough to learn from, few enough to read.
KEPT = 10


class GoldenMetric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One metric of one case: the launches of each session, oldest first."""

    sessions: list[list[float]]
    limit: str | None = None
    noise: Noise | None = None


class GoldenCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case: its facts beyond the machine's, when it was updated, its metrics."""

    facts: dict[str, Any]
    metrics: dict[str, GoldenMetric]
    updated: str = ""


class GoldenAcceptance(Acceptance, frozen=True, forbid_unknown_fields=True):
    """An acceptance, and the cases whose history began anew with it."""

    cases: tuple[str, ...] = ()


class Golden:
    """A golden file as a Baseline."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.passed_over: list[str] = []
        self.facts: dict[str, Facts] = {}
        self.cases: dict[str, GoldenCase] = {}
        self.limits: dict[str, dict[str, Limit]] = {}
        self.accepted: list[GoldenAcceptance] = []

    def names(self) -> list[str]:
        """The cases in it."""
        return list(self.cases)

    def of(
        self, name: str, now: Facts, across: Collection[str] = ()
    ) -> CaseBaseline | Incomparable | None:
        """What to compare a case with."""
        case = self.cases.get(name)
        if case is None:
            return None
        if unlike := differences(self.facts[name], now, across):
            return Incomparable(self.name, case.updated or None, unlike)
        return CaseBaseline(
            file=self.name,
            saved=case.updated or None,
            sessions=max((len(metric.sessions) for metric in case.metrics.values()), default=0),
            history={metric: one.sessions for metric, one in case.metrics.items()},
            limits=self.limits[name],
            noise={
                metric: one.noise for metric, one in case.metrics.items() if one.noise is not None
            },
        )

    def stored(self, name: str) -> CaseBaseline | None:
        """As Baseline.stored."""
        found = self.of(name, self.facts[name]) if name in self.cases else None
        return found if isinstance(found, CaseBaseline) else None

    def update(self, run: SavedRun, accepted: Acceptance | None = None) -> list[str]:
        """Takes over every case of a saved session; returns the cases whose history begins anew.

        Raises DataError when the session is not fit, or a case has other facts, and nobody accepted
        it.
        """
        if accepted is None and run.unfit:
            raise DataError(f"{run.path}: {run.unfit}: accept it with a reason, or measure again")
        anew = []
        disturbed = []
        for name, record in run.cases.items():
            now = _facts(record)
            old = self.cases.get(name)
            unlike = differences(self.facts[name], now) if old else []
            worse = record.verdict.status == "regressed" and run.session.accepted is None
            if accepted is None and (unlike or worse):
                what = "; ".join(map(str, unlike)) if unlike else "it regressed"
                raise DataError(
                    f"{run.path}: {name}: {what}: accept it with a reason, or measure again"
                )
            restart = bool(unlike) or record.verdict.status == "regressed"
            if old and restart:
                anew.append(name)
            if record.disturbed:
                disturbed.append(name)
            if old and restart and record.disturbed:
                raise DataError(
                    f"{run.path}: {name}: every launch was disturbed: measure again before you accept it"
                )
            self.facts[name] = now
            self.cases[name] = _updated(old, record, run.saved, restart=restart)
        if disturbed:
            self.passed_over.append(f"{run.path.name}: {disturbed_text(disturbed)}")
        if accepted is not None:
            self.accepted.append(
                GoldenAcceptance(accepted.who, accepted.when, accepted.why, tuple(sorted(anew)))
            )
        return anew

    def save(self) -> None:
        """Replaces the file at once."""
        replace_file(self.path, self.text())

    def text(self) -> str:
        """The file: sorted, one line per metric."""
        machine = _shared(list(self.facts.values()))
        lines = [
            "{",
            f' "{KEY}": {GOLDEN_SCHEMA},',
            f' "machine": {_line(machine)},',
            ' "accepted": [',
        ]
        lines += _joined([f"  {_line(msgspec.to_builtins(one))}" for one in self.accepted])
        lines += [" ],", ' "cases": {']
        lines += _joined([self._case_text(name, machine) for name in sorted(self.cases)])
        return "\n".join([*lines, " }", "}", ""])

    def _case_text(self, name: str, machine: Facts) -> str:
        case = self.cases[name]
        own = {fact: value for fact, value in self.facts[name].items() if fact not in machine}
        metrics = [
            f"    {_line(metric)}: {_line(_metric(one))}"
            for metric, one in sorted(case.metrics.items())
        ]
        head = [
            f"  {_line(name)}: {{",
            f'   "facts": {_line(own)},',
            f'   "updated": {_line(case.updated)},',
        ]
        return "\n".join([*head, '   "metrics": {', *_joined(metrics), "   }", "  }"])


def is_golden(data: Any) -> bool:
    """Whether a JSON value is meant to be a golden file."""
    return isinstance(data, dict) and KEY in data


def read_golden(path: Path) -> Golden:
    """Reads a golden file. Raises DataError naming the file and the place of the first thing that
    is wrong."""
    data = check_json(path, read_bytes(path))
    if not is_golden(data):
        raise DataError(f"{path} is not a golden file: it has no {KEY!r}")
    if data[KEY] != GOLDEN_SCHEMA:
        raise DataError(
            f"{path}: {KEY} is {data[KEY]!r}: this version reads {GOLDEN_SCHEMA}; update pytest-dnnbench"
        )
    if unknown := sorted(set(data) - {KEY, "machine", "accepted", "cases"}):
        raise DataError(f"{path}: the key {unknown[0]!r} is unknown")
    golden = Golden(path)
    machine = _read(path, "machine", data.get("machine", {}), dict[str, Any])
    golden.accepted = _read(path, "accepted", data.get("accepted", []), list[GoldenAcceptance])
    for name, value in _read(
        path, "cases", data.get("cases", {}), dict[str, dict[str, Any]]
    ).items():
        if not name or not name.isprintable():
            raise DataError(f"{path}: cases: {name!r} is not the name of a case")
        _read_case(golden, name, value, machine)
    return golden


def _read_case(golden: Golden, name: str, value: dict[str, Any], machine: Facts) -> None:
    path, place = golden.path, f"cases[{name}]"
    metrics = _read(path, f"{place}.metrics", value.get("metrics", {}), dict[str, Any])
    read = {
        metric: _read_metric(path, f"{place}.metrics.{metric}", one)
        for metric, one in metrics.items()
    }
    case = _read(path, place, {"facts": {}, **value, "metrics": {}}, GoldenCase)
    golden.cases[name] = GoldenCase(case.facts, read, case.updated)
    golden.facts[name] = dict(sorted({**machine, **case.facts}.items()))
    try:
        golden.limits[name] = {
            metric: replace(limit, relative_source="baseline", absolute_source="baseline")
            for metric, one in read.items()
            if one.limit is not None
            for limit in [parse_limit(metric, one.limit, f"{path}: {place}")]
        }
    except UsageError as error:
        raise DataError(str(error)) from None


def _read_metric(path: Path, place: str, value: Any) -> GoldenMetric:
    metric: GoldenMetric = _read(path, place, value, GoldenMetric)
    if not metric.sessions or not all(metric.sessions):
        raise DataError(f"{path}: {place}.sessions: a session without a launch cannot be compared")
    if not all(abs(one) < float("inf") for session in metric.sessions for one in session):
        raise DataError(f"{path}: {place}.sessions: a value is not finite")
    noise = metric.noise
    if noise and not (
        0 <= noise.launch_sd < 10
        and 0 <= noise.session_sd < 10
        and noise.launch_dof > 0
        and noise.session_dof > 0
    ):
        raise DataError(
            f"{path}: {place}.noise: standard deviations are relative, from 0 up to 10, and degrees of freedom above 0"
        )
    return metric


def _read(path: Path, place: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise DataError(f"{path}: {place}{where.rstrip('`')}: {what}") from None


def _updated(
    old: GoldenCase | None, record: SavedRecord, saved: str, *, restart: bool
) -> GoldenCase:
    metrics = {}
    for name in record.metrics:
        before = old.metrics.get(name) if old else None
        past = before.sessions if before and not restart else []
        undisturbed = list(record.launches(name).undisturbed)
        sessions = [*past, *([undisturbed] if undisturbed else [])][-KEPT:]
        if not sessions:
            continue
        gated = METRICS.get(name) is not None and METRICS[name].tolerance is not None
        positive = all(value > 0 for session in sessions for value in session)
        limit = before.limit if before else _own_limit(record, name)
        noise = (
            learn(sessions, prior_of(name))
            if (gated or limit or name == YARDSTICK) and positive
            else None
        )
        if gated or limit or name in ("speedup", "scaling_efficiency", YARDSTICK):
            metrics[name] = GoldenMetric(sessions, limit, noise)
    return GoldenCase({}, metrics, saved)


def _own_limit(record: SavedRecord, metric: str) -> str | None:
    """The limit that the session's user set, as the file's own."""
    one = record.thresholds.get(metric)
    limit = stored_limit(metric, one.relative, one.absolute, one.source) if one else None
    return limit_text(metric, limit) if limit else None


def _facts(record: SavedRecord) -> Facts:
    return facts(*(msgspec.json.decode(text) for text in record.facts_text))


def _shared(every: list[Facts]) -> Facts:
    if len(every) < 2:
        return {}
    first = every[0]
    return {
        name: value
        for name, value in first.items()
        if all(name in one and one[name] == value for one in every)
    }


def _metric(metric: GoldenMetric) -> dict[str, Any]:
    shown: dict[str, Any] = {"limit": metric.limit} if metric.limit is not None else {}
    shown["sessions"] = metric.sessions
    if metric.noise is not None:
        shown["noise"] = {key: _rounded(value) for key, value in asdict(metric.noise).items()}
    return shown


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _joined(lines: list[str]) -> list[str]:
    """With a comma after each but the last."""
    return [line + "," for line in lines[:-1]] + lines[-1:]
