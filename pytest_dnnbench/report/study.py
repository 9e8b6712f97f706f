"""What a report is about: the newest result of every case, its history, and which cases stand
beside each other.

group    model, phase and settings: one panel, one comparison      resnet50, train
series   a framework and its own options: one line in a panel      horovod (compression=fp16)
point    a number of GPUs
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pytest_dnnbench.case import PHASES
from pytest_dnnbench.catalog import FRAMEWORKS
from pytest_dnnbench.report.runs import Result, Run

# Facts of a case that must be alike within a group; the framework's own options make a series.
SETTINGS = (
    "dataset", "image_size", "batch_size", "precision", "scaling", "device", "launcher", "seed", "steps", "warmup",
)  # fmt: skip

_ORDER = {row.name: place for place, row in enumerate(FRAMEWORKS)}

Key = tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The cases of one model, phase and setting; `label` tells them from the study's other
    groups."""

    model: str
    phase: str
    setting: str
    results: tuple[Result, ...] = field(repr=False)

    @property
    def label(self) -> str:
        """As in `resnet50, train`, and the settings where they are not the same everywhere."""
        return ", ".join(filter(None, (self.model, self.phase, self.setting)))

    @property
    def counts(self) -> list[int]:
        """The numbers of GPUs measured."""
        return sorted({result.gpus for result in self.results})

    def at(self, gpus: int) -> list[Result]:
        """The cases on so many GPUs."""
        return [result for result in self.results if result.gpus == gpus]


class Study:
    """Runs, oldest first, and what they hold together."""

    def __init__(self, runs: Iterable[Run]) -> None:
        ordered = sorted(runs, key=lambda run: run.saved)
        self.runs = [
            replace(run, results=tuple(replace(result, run=number) for result in run.results))
            for number, run in enumerate(ordered)
        ]
        self.history: dict[Key, list[Result]] = defaultdict(list)
        for run in self.runs:
            for result in run.results:
                self.history[identity(result)].append(result)
        self.latest = sorted((results[-1] for results in self.history.values()), key=self._place)

    @cached_property
    def groups(self) -> list[Group]:
        """Sorted by model, train before validate."""
        members: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
        for result in self.latest:
            members[result.model, result.phase, self.setting(result)].append(result)
        return [Group(*key, tuple(results)) for key, results in members.items()]

    @cached_property
    def series(self) -> list[str]:
        """The labels of all series: known frameworks first, in the catalog's order."""
        found = {
            self.label(result): _ORDER.get(result.framework, len(_ORDER)) for result in self.latest
        }
        return sorted(found, key=lambda label: (found[label], label))

    def label(self, result: Result) -> str:
        """The series of a result: its framework, with those of its options that are not the same
        everywhere."""
        varying = self._varying_options.get(result.framework, [])
        options = _options(result)
        shown = ", ".join(f"{name}={options[name]}" for name in varying if name in options)
        return f"{result.framework} ({shown})" if shown else result.framework

    def setting(self, result: Result) -> str:
        """The settings of a result that are not the same in the whole study."""
        own = settings(result)
        known = {name: "unknown" if own[name] is None else own[name] for name in self._varying}
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())

    @cached_property
    def alike(self) -> dict[str, Any]:
        """Facts of the environment that every case shares, with those that a case lacks left
        aside."""
        return _alike([result.must_match for result in self.latest])

    @cached_property
    def alike_settings(self) -> dict[str, Any]:
        """Settings that every case shares."""
        return _alike([settings(result) for result in self.latest])

    @cached_property
    def _varying(self) -> list[str]:
        rows = [settings(result) for result in self.latest]
        return [name for name in SETTINGS if len({str(row[name]) for row in rows}) > 1]

    @cached_property
    def _varying_options(self) -> dict[str, list[str]]:
        found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for result in self.latest:
            for name, value in _options(result).items():
                found[result.framework][name].add(str(value))
        return {
            framework: [name for name, values in options.items() if len(values) > 1]
            for framework, options in found.items()
        }

    def _place(self, result: Result) -> tuple[Any, ...]:
        order = _ORDER.get(result.framework, len(_ORDER))
        return (
            result.model,
            PHASES.index(result.phase),
            str(settings(result)),
            result.gpus,
            order,
            result.name,
        )


def settings(result: Result) -> dict[str, Any]:
    """The settings of a case; under strong scaling the batch is that of all GPUs together."""
    found = {name: result.case.get(name) for name in SETTINGS}
    if found["scaling"] == "strong" and isinstance(found["batch_size"], int):
        found["batch_size"] *= result.gpus
    return found


def identity(result: Result) -> Key:
    """What makes two results of different sessions the same case."""
    facts = [
        settings(result),
        _options(result),
        result.framework,
        result.model,
        result.gpus,
        result.phase,
    ]
    return result.name, json.dumps(facts, sort_keys=True)


def unlike(one: Result, other: Result) -> list[str]:
    """The facts of the environment that both cases tell and that differ: reasons not to compare
    them."""
    shared = one.must_match.keys() & other.must_match.keys()
    return sorted(name for name in shared if one.must_match[name] != other.must_match[name])


def _options(result: Result) -> dict[str, Any]:
    options = result.case.get("options")
    return options if isinstance(options, dict) else {}


def _alike(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = {name: None for row in rows for name in row}
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {
        name: found[0]
        for name, found in values.items()
        if all(value == found[0] for value in found)
    }
