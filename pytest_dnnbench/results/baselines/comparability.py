"""What must be alike before two runs of a case may be compared, and how they differ.

A fact has a short name, as users write it after `--dnn-compare-across`: `torch`, `gpus`,
`data.split`, `partition`.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.results.records.preflight import NETWORK
from pytest_dnnbench.results.records.schema import PlanEntry, Record, RunFacts

Facts = dict[str, Any]

Recorded = Mapping[str, tuple[Any, ...]]
"""The values that each fact which is only recorded had in a baseline's sessions."""

CASE_FACTS = (
    *Case.__dataclass_fields__,
    *FunctionCase.__dataclass_fields__,
    *RunFacts.__struct_fields__,
    "partition",
)
"""Facts that every session may have, whatever its environment."""

_EVER_OTHER = {"load_1min", NETWORK}
"""Recorded facts that are another each time, and so say nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that differs; None stands for a fact that one side does not have."""

    fact: str
    baseline: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.fact}: {_shown(self.baseline)} -> {_shown(self.now)}"


def facts_of(record: Record) -> Facts:
    """The facts of a run, flat and sorted: of the case, of how it was run, of the environment, and
    how a pipeline is split."""
    split = {} if record.plan is None else {"partition": _partition(record.plan)}
    facts: Facts = {}
    for part in (
        msgspec.to_builtins(record.measured_case),
        msgspec.to_builtins(record.run),
        record.environment.must_match,
        split,
    ):
        for name, value in part.items():
            facts.update(_flat(name, value))
    return dict(sorted(facts.items()))


def alike(record: Record, other: Record) -> bool:
    """Whether two records have the same facts. Much faster than making and comparing them."""
    return (
        record.measured_case == other.measured_case
        and record.run == other.run
        and _same(record.environment.must_match, other.environment.must_match)
        and (record.plan and _partition(record.plan)) == (other.plan and _partition(other.plan))
    )


def differences(baseline: Facts, now: Facts, across: Collection[str] = ()) -> list[Difference]:
    """Exactly the facts that differ, except those that the user compares across; the name of a
    group, as `data`, stands for all its facts. A fact that is empty is like one that is absent."""
    return [
        Difference(name, baseline.get(name), now.get(name))
        for name in sorted({*baseline, *now})
        if _present(baseline.get(name)) != _present(now.get(name))
        and not {name, name.partition(".")[0]} & set(across)
    ]


def _same(facts: Facts, others: Facts) -> bool:
    return facts == others or not differences(facts, others)


def _present(value: Any) -> Any:
    """The value of a fact; None for an empty text, which says as little as no fact."""
    return None if value == "" else value


def recorded_of(records: Iterable[Record]) -> dict[str, tuple[Any, ...]]:
    """The recorded facts of several sessions of a case."""
    values: dict[str, dict[Any, None]] = {}
    for record in records:
        for name, value in record.environment.recorded.items():
            if name not in _EVER_OTHER and value is not None:
                values.setdefault(name, {})[value] = None
    return {name: tuple(each) for name, each in values.items()}


def elsewhere(baseline: Recorded, record: Record) -> list[str]:
    """The recorded facts that no session of the baseline had as this record has them: no reason
    not to compare, but one for a difference."""
    now = record.environment.recorded
    return [
        f"{name}: {', '.join(map(_shown, values))} -> {_shown(now[name])}"
        for name, values in sorted(baseline.items())
        if now.get(name) is not None and now[name] not in values
    ]


def check_across(across: Iterable[str], sides: Iterable[Facts]) -> None:
    """Raises UsageError for a fact that no side has, with the names that are nearest to it."""
    names = fact_names(sides)
    for name in across:
        if names and name not in names:
            near = nearest_facts(name, names)
            meant = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"choose from {', '.join(sorted(names))}"
            )
            raise UsageError(f"no session has a fact {name!r} to compare across: {meant}")


def fact_names(sides: Iterable[Iterable[str]]) -> set[str]:
    """The names of facts and of groups of facts."""
    return {part for facts in sides for name in facts for part in (name, name.partition(".")[0])}


def nearest_facts(name: str, names: Iterable[str]) -> list[str]:
    """The names that a misspelt one may mean, nearest first."""
    return difflib.get_close_matches(name, names)


def _partition(plan: PlanEntry) -> Any:
    """How the model is split. The plan's predictions follow from a profile and do not identify the
    case."""
    return {
        "stages": [
            {"operators": list(stage.operators), "replicas": stage.replicas}
            for stage in plan.plan.stages
        ]
    }


def _flat(name: str, value: Any) -> Facts:
    if isinstance(value, Mapping) and name != "partition":
        return {f"{name}.{key}": fact for key, fact in value.items()}
    return {name: value}


def _shown(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 100 else text[:97] + "..."
