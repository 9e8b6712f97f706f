"""The format of a golden file.

    {
     "dnnbench_golden": 1,
     "machine": {facts that all cases share},
     "accepted": [{who, when, why, cases}],
     "cases": {
      "test_steps.py::test_train[ddp-resnet18-2gpu]": {
       "facts": {its other facts},
       "recorded": {facts of its newest session that need not match, as the host name},
       "metrics": {
        "throughput": {"limit": "-5%", "sessions": [[3010.2, 3004.8, 3012.0]], "noise": {...}}

Of a metric the latest sessions are kept, and under "earlier" the first ones with the number of
those before the latest, against which a slow decline is judged. Sorted, one line per metric. Users
add `limit` by hand, as on the command line; an update keeps it.
An unknown key is an error, so that a misspelt one never silently does nothing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.metrics import metric_row
from pytest_dnnbench.results.baselines.comparability import Facts
from pytest_dnnbench.results.baselines.golden import (
    Golden,
    GoldenAcceptance,
    GoldenCase,
    GoldenMetric,
)
from pytest_dnnbench.results.baselines.limits import Limit, parse_limit
from pytest_dnnbench.results.records.json_text import check_json, read_bytes
from pytest_dnnbench.results.statistics.noise import Noise

GOLDEN_SCHEMA = 1
"""The version of the format. History: 1, the first."""

KEY = "dnnbench_golden"

MOST_BYTES = 64 * 2**20
"""The largest file that is read: ten sessions of 1,000 cases are about 2 MB."""

_T = TypeVar("_T")


class _CaseEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A case as the file has it; its facts without the machine's."""

    metrics: dict[str, Any]
    facts: dict[str, Any] = {}
    recorded: dict[str, Any] = {}
    updated: str = ""


class _Outline(msgspec.Struct, frozen=True):
    dnnbench_golden: msgspec.Raw | None = None


def is_golden(content: bytes) -> bool:
    """Whether the content is meant to be a golden file, be it damaged."""
    try:
        return msgspec.json.decode(content, type=_Outline).dnnbench_golden is not None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f'"{KEY}"'.encode() in content


def read_golden(path: Path) -> Golden:
    """Reads a golden file. Raises DataError naming the file and the place of the first thing that
    is wrong."""
    content = check_json(path, read_bytes(path, MOST_BYTES))
    if not isinstance(content, dict) or KEY not in content:
        raise DataError(
            f"{path} is not a golden file: it has no {KEY!r}; name one that"
            " `dnnbench baseline update` has written"
        )
    if content[KEY] != GOLDEN_SCHEMA:
        raise DataError(
            f"{path}: {KEY} is {content[KEY]!r}: this version reads {GOLDEN_SCHEMA};"
            " update pytest-dnnbench"
        )
    if unknown := sorted(set(content) - {KEY, "machine", "accepted", "cases"}):
        raise DataError(f"{path}: the key {unknown[0]!r} is unknown: remove it")
    golden = Golden(path)
    machine = _read(path, "machine", content.get("machine", {}), dict[str, Any])
    golden.accepted = _read(path, "accepted", content.get("accepted", []), list[GoldenAcceptance])
    for name, entry in _read(path, "cases", content.get("cases", {}), dict[str, Any]).items():
        if not name or not name.isprintable():
            raise DataError(f"{path}: cases: {name!r} is not the name of a case")
        golden.cases[name] = _read_case(path, f"cases[{name}]", entry, machine)
    return golden


def write_golden(golden: Golden) -> None:
    """Replaces the whole file, or, when interrupted, nothing of it."""
    replace_file(golden.path, golden_text(golden))


def golden_text(golden: Golden) -> str:
    """The file: sorted, one line per metric."""
    machine = _shared([case.facts for case in golden.cases.values()])
    accepted = [f"  {_line(msgspec.to_builtins(entry))}" for entry in golden.accepted]
    cases = [_case_text(name, golden.cases[name], machine) for name in sorted(golden.cases)]
    return "\n".join(
        [
            "{",
            f' "{KEY}": {GOLDEN_SCHEMA},',
            f' "machine": {_line(machine)},',
            ' "accepted": [',
            *_joined(accepted),
            " ],",
            ' "cases": {',
            *_joined(cases),
            " }",
            "}",
            "",
        ]
    )


def written_limits(metrics: Mapping[str, GoldenMetric], place: str) -> dict[str, Limit]:
    """The limits that are written beside the metrics of a case. Raises UsageError, with the place,
    for one that cannot be meant."""
    limits = {
        name: parse_limit(name, metric.limit, place)
        for name, metric in metrics.items()
        if metric.limit is not None
    }
    return {
        name: replace(limit, relative_source="baseline", absolute_source="baseline")
        for name, limit in limits.items()
    }


def _read_case(path: Path, place: str, entry: Any, machine: Facts) -> GoldenCase:
    if isinstance(entry, dict):
        entry = {"metrics": {}, **entry}
    case = _read(path, place, entry, _CaseEntry)
    metrics = {}
    for name, metric in case.metrics.items():
        if not name.isidentifier():
            raise DataError(f"{path}: {place}.metrics: {name!r} is not the name of a metric")
        metrics[name] = _read_metric(path, f"{place}.metrics.{name}", name, metric)
    try:
        limits = written_limits(metrics, f"{path}: {place}")
    except UsageError as error:
        raise DataError(str(error)) from None
    facts = dict(sorted({**machine, **case.facts}.items()))
    return GoldenCase(facts, metrics, limits, case.updated, case.recorded)


def _read_metric(path: Path, place: str, name: str, entry: Any) -> GoldenMetric:
    metric = _read(path, place, entry, GoldenMetric)
    if not metric.sessions or not all(metric.sessions):
        raise DataError(f"{path}: {place}.sessions: a session without a launch cannot be compared")
    row = metric_row(name)
    earlier = metric.earlier
    if earlier and not (0 < len(earlier.first) <= earlier.count and all(earlier.first)):
        raise DataError(f"{path}: {place}.earlier: `first` holds some of `count` sessions")
    values = [*chain.from_iterable([*metric.sessions, *(earlier.first if earlier else ())])]
    for value in values:
        if impossible := row.impossible(value):
            raise DataError(f"{path}: {place}.sessions: {impossible}")
    if metric.noise and min(values) <= 0:
        raise DataError(f"{path}: {place}.noise: only values above zero have a relative noise")
    if metric.noise and not _is_noise(metric.noise):
        raise DataError(
            f"{path}: {place}.noise: standard deviations are relative and lie between 0 and 1,000;"
            " degrees of freedom lie between 0.1 and a million; ratios lie between 0 and 10"
            " million, and their chances add up to 1"
        )
    return metric


def _is_noise(noise: Noise) -> bool:
    """Whether the formulas of noise have an answer; the least that is learnt is 0.5 degrees."""
    chances = [chance for _, chance in noise.ratios]
    return (
        (noise.launch_sd == 0 or 1e-18 <= noise.launch_sd <= 1000)
        and 0.1 <= noise.launch_dof <= 1e6
        and all(ratio == 0 or 1e-9 <= ratio <= 1e7 for ratio, _ in noise.ratios)
        and all(0 < chance <= 1 + 1e-9 for chance in chances)
        and abs(math.fsum(chances) - 1) < 1e-6
    )


def _read(path: Path, place: str, value: Any, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise DataError(f"{path}: {place}{where.rstrip('`')}: {what}") from None


def _case_text(name: str, case: GoldenCase, machine: Facts) -> str:
    facts = {fact: value for fact, value in case.facts.items() if fact not in machine}
    metrics = [
        f"    {_line(metric)}: {_line(_metric(case.metrics[metric]))}"
        for metric in sorted(case.metrics)
    ]
    return "\n".join(
        [
            f"  {_line(name)}: {{",
            f'   "facts": {_line(facts)},',
            *([f'   "recorded": {_line(case.recorded)},'] if case.recorded else []),
            f'   "updated": {_line(case.updated)},',
            '   "metrics": {',
            *_joined(metrics),
            "   }",
            "  }",
        ]
    )


def _metric(metric: GoldenMetric) -> dict[str, Any]:
    entry: dict[str, Any] = {"limit": metric.limit} if metric.limit is not None else {}
    entry["sessions"] = metric.sessions
    if metric.earlier is not None:
        entry["earlier"] = msgspec.to_builtins(metric.earlier)
    if metric.noise is not None:
        entry["noise"] = {key: _rounded(value) for key, value in asdict(metric.noise).items()}
    return entry


def _shared(cases: list[Facts]) -> Facts:
    """The facts that all cases have alike; of a single case none, for which are the machine's?"""
    if len(cases) < 2:
        return {}
    return {
        fact: value
        for fact, value in cases[0].items()
        if all(fact in case and case[fact] == value for case in cases)
    }


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    rounded = float(f"{value:.4g}")
    return rounded if math.isfinite(rounded) else value


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _joined(lines: list[str]) -> list[str]:
    """With a comma after each but the last."""
    return [line + "," for line in lines[:-1]] + lines[-1:]
