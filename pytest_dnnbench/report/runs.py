"""Saved sessions as a report reads them: leniently. What is missing, not finite or too long is left
out and told.

A report must show even a broken run; a comparison must refuse one. So this is not the strict reader
of baselines. Every text that leaves this module is printable and bounded, every number finite.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dnnbench.case import PHASES
from pytest_dnnbench.errors import DataError

# Bounds on what is taken from a file: characters of a name and of any other text, entries of a list
# or mapping, depth.
NAME_LENGTH, TEXT_LENGTH, ENTRIES, DEPTH = 120, 300, 64, 5

# Larger or nearer to zero than anything measured, in any unit: taken for damage.
LARGEST, SMALLEST = 1e18, 1e-18


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of a case: its median over the launches, and each launch's value where known."""

    value: float
    unit: str
    better: str
    per_launch: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """One case of one session. `step_time_s` holds the raw samples of each launch."""

    name: str
    framework: str
    model: str
    gpus: int
    phase: str
    case: dict[str, Any]
    metrics: dict[str, Figure]
    step_time_s: tuple[tuple[float, ...], ...]
    must_match: dict[str, Any]
    recorded: dict[str, Any]
    correctness: dict[str, Any]
    plan: Any
    verdict: dict[str, Any]
    run: int = 0

    def value(self, metric: str) -> float | None:
        """The median of a metric; None when the record has none."""
        return self.metrics[metric].value if metric in self.metrics else None

    @property
    def status(self) -> str:
        """The verdict in one word."""
        return str(self.verdict.get("status") or "no-baseline")


@dataclass(frozen=True, slots=True)
class Run:
    """One session: its cases, what failed in it (name and message), and what could not be read."""

    source: str
    saved: str
    commit: str = ""
    results: tuple[Result, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    interrupted: bool = False


def read_run(path: Path) -> Run:
    """A file that pytest-benchmark saved. Raises DataError for one that cannot be read or is no
    such file."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON, or was cut off: {plain(error)}") from None
    return run_of(content, path.name)


def run_of(content: Any, source: str) -> Run:
    """The content of a saved file. Raises DataError when it is not one of pytest-benchmark's."""
    if not isinstance(content, Mapping) or not isinstance(content.get("benchmarks"), list):
        raise DataError(
            f"{plain(source)} holds no `benchmarks`: give a file that --benchmark-json or -save wrote"
        )
    results, notes, others = [], [], 0
    for number, benchmark in enumerate(content["benchmarks"]):
        record = _part(_part(benchmark).get("extra_info")).get("dnnbench")
        if record is None:
            others += 1
            continue
        name = plain(_part(benchmark).get("fullname") or f"benchmark {number}", NAME_LENGTH * 2)
        result = _result(name, _part(record))
        if result is None:
            notes.append(
                f"{name}: its record does not tell framework, model, GPUs and phase; left out"
            )
        else:
            results.append(result)
    if others:
        notes.append(
            f"{others} other benchmarks in {plain(source)} are not pytest-dnnbench's; left out"
        )
    session = _part(content.get("dnnbench"))
    return Run(
        source=plain(source, NAME_LENGTH),
        saved=plain(content.get("datetime") or "", 40),
        commit=plain(_part(content.get("commit_info")).get("id") or "", 12),
        results=tuple(results),
        failures=tuple(_failures(session.get("failed"))),
        notes=tuple(notes),
        interrupted=session.get("interrupted") is True,
    )


def plain(value: object, length: int = TEXT_LENGTH) -> str:
    """Printable text of at most so many characters; what cannot be printed is shown as a
    replacement character."""
    text = str(value)
    cut = text if len(text) <= length else f"{text[: length - 1]}…"
    if cut.isprintable():
        return cut
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in cut
    )


def number(value: object) -> float | None:
    """A finite number of a size that can be measured; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if value == 0 or SMALLEST <= abs(value) <= LARGEST else None


def tidy(value: Any, depth: int = DEPTH) -> Any:
    """JSON data with bounded texts, finite numbers (else None) and at most so many entries and
    levels."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if number(value) is not None else None
    if isinstance(value, Mapping):
        if not depth:
            return "…"
        return {plain(key, NAME_LENGTH): tidy(one, depth - 1) for key, one in _first(value.items())}
    if isinstance(value, (list, tuple)):
        return [tidy(one, depth - 1) for one in _first(value)] if depth else "…"
    return plain(value)


def _result(name: str, record: Mapping[str, Any]) -> Result | None:
    case = tidy(_part(record.get("case")))
    gpus = number(case.get("gpus"))
    texts = [case.get(key) for key in ("framework", "model")]
    if gpus is None or not 1 <= gpus <= 2**20 or not all(isinstance(one, str) for one in texts):
        return None
    if case.get("phase") not in PHASES:
        return None
    framework, model = (plain(one, NAME_LENGTH) for one in texts)
    environment = _part(record.get("environment"))
    return Result(
        name=name,
        framework=framework,
        model=model,
        gpus=int(gpus),
        phase=case["phase"],
        case=case,
        metrics=dict(_figures(_part(record.get("metrics")))),
        step_time_s=tuple(_samples(record.get("launches"))),
        must_match=tidy(_part(environment.get("must_match"))),
        recorded=tidy(_part(environment.get("recorded"))),
        correctness=tidy(_part(record.get("correctness"))),
        plan=tidy(record.get("plan")),
        verdict=tidy(_part(record.get("verdict"))),
    )


def _figures(metrics: Mapping[str, Any]) -> Iterable[tuple[str, Figure]]:
    for name, entry in _first(metrics.items()):
        value = number(_part(entry).get("value"))
        if value is not None:
            launches = _numbers(_part(entry).get("per_launch"))
            unit, better = (plain(entry.get(key) or "", 12) for key in ("unit", "better"))
            yield plain(name, NAME_LENGTH), Figure(value, unit, better, launches)


def _samples(launches: Any) -> Iterable[tuple[float, ...]]:
    for launch in launches if isinstance(launches, list) else ():
        yield _numbers(_part(launch).get("step_time_s"))


def _numbers(values: Any) -> tuple[float, ...]:
    found = (number(value) for value in values) if isinstance(values, list) else ()
    return tuple(value for value in found if value is not None)


def _failures(failed: Any) -> Iterable[tuple[str, str]]:
    for one in failed if isinstance(failed, list) else ():
        if isinstance(one, (list, tuple)) and len(one) == 2:
            yield plain(one[0], NAME_LENGTH * 2), _lines(one[1])
        else:
            yield plain(one, NAME_LENGTH * 2), ""


def _lines(text: Any) -> str:
    """A message of several lines."""
    return "\n".join(plain(line) for line in _first(str(text)[: 8 * TEXT_LENGTH].splitlines()))


def _part(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(values: Iterable[Any]) -> Iterable[Any]:
    return (value for value, _ in zip(values, range(ENTRIES), strict=False))
