"""What a report is about: the newest result of every case, its history, and which cases stand
beside each other.

group    model, phase and settings: one panel, one comparison      resnet50, train
series   a framework and its own options: one line in a panel      horovod (compression=fp16)
point    a number of GPUs
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import msgspec

from pytest_dnnbench.case import PHASES, Scalar
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.report.runs import Result, Run

# Facts that must be alike within a group; the framework's own options make a series.
CASE_SETTINGS = (
    "dataset",
    "image_size",
    "sequence_length",
    "batch_size",
    "precision",
    "scaling",
    "device",
    "seed",
    "form",
)
RUN_SETTINGS = ("steps", "warmup")

_ORDER = {row.name: place for place, row in enumerate(FRAMEWORKS)}

Key = tuple[str, str]
Fact = TypeVar("Fact", bound=Scalar | None)


@dataclass(frozen=True)
class CaseGroup:
    """The cases of one model, phase and setting. `setting` names the settings in which the study's
    groups differ; it is empty when they are all alike."""

    model: str
    phase: str
    setting: str
    results: tuple[Result, ...] = field(repr=False)

    @property
    def label(self) -> str:
        """As in `resnet50, train`, with the setting if there is one."""
        return ", ".join(filter(None, (self.model, self.phase, self.setting)))

    @property
    def counts(self) -> list[int]:
        """The numbers of GPUs measured."""
        return sorted({result.case.gpus for result in self.results})

    @property
    def throughput_unit(self) -> str:
        """The unit of the group's throughputs, as in img/s."""
        return throughput_unit(self.results)

    def at(self, gpus: int) -> list[Result]:
        """The cases on this number of GPUs."""
        return [result for result in self.results if result.case.gpus == gpus]


class Study:
    """Runs, oldest first, and what they hold together. Groups, series and settings are those of
    the cases of training and validation; timed functions (functions.py) have none."""

    def __init__(self, runs: Iterable[Run]) -> None:
        ordered = sorted(runs, key=lambda run: run.saved)
        self.runs = [
            replace(
                run,
                results=tuple(replace(result, run=number) for result in run.results),
                functions=tuple(replace(result, run=number) for result in run.functions),
            )
            for number, run in enumerate(ordered)
        ]
        self.history: dict[Key, list[Result]] = defaultdict(list)
        for run in self.runs:
            for result in run.results:
                self.history[identity(result)].append(result)
        self.latest = sorted((results[-1] for results in self.history.values()), key=_place)
        self.function_history: dict[Key, list[Result]] = defaultdict(list)
        for run in self.runs:
            for result in run.functions:
                self.function_history[_function_identity(result)].append(result)
        self.functions = [results[-1] for results in self.function_history.values()]

    @property
    def measured(self) -> list[Result]:
        """The newest result of everything that was measured."""
        return [*self.latest, *self.functions]

    @cached_property
    def groups(self) -> list[CaseGroup]:
        """Sorted by model, train before validate."""
        members: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
        for result in self.latest:
            case = result.case
            members[case.model, case.phase, self.setting(result)].append(result)
        return [CaseGroup(*key, tuple(results)) for key, results in members.items()]

    @cached_property
    def series(self) -> list[str]:
        """The labels of all series: the catalog's frameworks first, in its order."""
        places = {self.label(result): _framework_place(result) for result in self.latest}
        return sorted(places, key=lambda label: (places[label], label))

    @cached_property
    def looks(self) -> dict[str, tuple[str, int]]:
        """The framework of each series, and its number among the series of that framework."""
        frameworks = {self.label(result): result.case.framework for result in self.latest}
        counts: Counter[str] = Counter()
        looks = {}
        for label in self.series:
            looks[label] = (frameworks[label], counts[frameworks[label]])
            counts[frameworks[label]] += 1
        return looks

    @cached_property
    def notes(self) -> list[str]:
        """What was left out of the runs, and why."""
        return [note for run in self.runs for note in run.notes]

    def label(self, result: Result) -> str:
        """The series of a result: its framework, with those of its options in which the study's
        cases of this framework differ."""
        framework, options = result.case.framework, result.case.options
        varying = self._varying_options.get(framework, [])
        shown = ", ".join(f"{name}={options[name]}" for name in varying if name in options)
        return f"{framework} ({shown})" if shown else framework

    def setting(self, result: Result) -> str:
        """The settings of a result in which the cases of the study differ."""
        chosen = case_settings(result)
        return ", ".join(
            f"{name.replace('_', ' ')} {chosen[name]}" for name in self._varying if name in chosen
        )

    @cached_property
    def alike(self) -> dict[str, Scalar | None]:
        """Facts of the environment that all cases share; a case that lacks a fact does not
        object."""
        return _alike([result.record.environment.must_match for result in self.measured])

    @cached_property
    def alike_settings(self) -> dict[str, Scalar]:
        """Settings that all cases share."""
        return _alike([case_settings(result) for result in self.latest])

    @cached_property
    def _varying(self) -> list[str]:
        rows = [case_settings(result) for result in self.latest]
        names = (*CASE_SETTINGS, *RUN_SETTINGS)
        return [name for name in names if len({row[name] for row in rows if name in row}) > 1]

    @cached_property
    def _varying_options(self) -> dict[str, list[str]]:
        values: dict[str, dict[str, set[Scalar]]] = defaultdict(lambda: defaultdict(set))
        for result in self.latest:
            for name, value in result.case.options.items():
                values[result.case.framework][name].add(value)
        return {
            framework: [name for name, chosen in options.items() if len(chosen) > 1]
            for framework, options in values.items()
        }


MIXED_RATES = "samples/s"
"""The head of throughputs whose units differ."""


def throughput_unit(results: Iterable[Result]) -> str:
    """The unit that the throughputs share; MIXED_RATES where they differ or there are none."""
    units = {result.throughput_unit for result in results} - {""}
    return units.pop() if len(units) == 1 else MIXED_RATES


def case_settings(result: Result) -> dict[str, Scalar]:
    """The settings of a case; under strong scaling the batch is that of all GPUs together. Only
    cases of images have an image's size."""
    case, run = result.case, result.record.run
    chosen: dict[str, Scalar] = {name: getattr(case, name) for name in CASE_SETTINGS}
    chosen["form"] = case.form.label or "plain"
    if run.sample != "img":
        del chosen["image_size"]
    chosen |= {name: getattr(run, name) for name in RUN_SETTINGS}
    if case.scaling == "strong":
        chosen["batch_size"] = case.batch_size * case.gpus
    return chosen


def identity(result: Result) -> Key:
    """What makes two results of different sessions the same case."""
    case = result.case
    facts = [case_settings(result), case.options, case.framework, case.model, case.gpus, case.phase]
    return result.name, json.dumps(facts, sort_keys=True)


def _function_identity(result: Result) -> Key:
    """The same of two results of a timed function."""
    return result.name, json.dumps(msgspec.to_builtins(result.record.function), sort_keys=True)


def unlike(left: Result, right: Result) -> list[str]:
    """The facts of the environment that both cases record and that differ: reasons not to compare
    them."""
    ours, theirs = (result.record.environment.must_match for result in (left, right))
    return sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])


def _framework_place(result: Result) -> int:
    return _ORDER.get(result.case.framework, len(_ORDER))


def natural(text: str) -> list[str | int]:
    """A key that sorts numbers within names as numbers: resnet18 before resnet101."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]


def _place(result: Result) -> tuple[list[str | int], int, str, int, int, str]:
    """Where a result stands in the study."""
    case = result.case
    return (
        natural(case.model),
        PHASES.index(case.phase),
        str(case_settings(result)),
        case.gpus,
        _framework_place(result),
        result.name,
    )


def _alike(rows: Sequence[Mapping[str, Fact]]) -> dict[str, Fact]:
    """The facts that have one value in all rows that have them."""
    values: dict[str, list[Fact]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    return {
        name: shared[0] for name, shared in values.items() if shared.count(shared[0]) == len(shared)
    }
