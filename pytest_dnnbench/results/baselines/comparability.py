"""What must be alike before two runs of a case may be compared, and how they differ.

A fact has a short name, as one writes it after `--dnn-compare-across`: `torch`, `gpus`,
`data.split`, `partition`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Facts = dict[str, Any]

# Of a plan: how the model is split. Its predictions follow from the profile and are not the case's
# identity.
_PARTITION = ("replicas", "stages", "microbatches", "schedule")


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that differs; None stands for a fact that one side does not have."""

    fact: str
    baseline: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.fact}: {_shown(self.baseline)} -> {_shown(self.now)}"


def facts(case: Mapping[str, Any], must_match: Mapping[str, Any], plan: Any) -> Facts:
    """The facts of a run, flat and sorted."""
    split = {"partition": _partition(plan)} if plan else {}
    found: Facts = {}
    for part in (case, must_match, split):
        for name, value in part.items():
            found.update(_flat(str(name), value))
    return dict(sorted(found.items()))


def facts_of(record: Mapping[str, Any]) -> Facts:
    """The facts of a record that was made in this session."""
    return facts(record["case"], record["environment"].get("must_match", {}), record.get("plan"))


def differences(baseline: Facts, now: Facts, across: Collection[str] = ()) -> list[Difference]:
    """Exactly the facts that differ, but for those that the user compares across; a group's name
    stands for all."""
    return [
        Difference(name, baseline.get(name), now.get(name))
        for name in sorted({*baseline, *now})
        if baseline.get(name) != now.get(name) and not {name, name.partition(".")[0]} & set(across)
    ]


def _partition(plan: Any) -> Any:
    if not isinstance(plan, Mapping):
        return plan
    split = {key: plan[key] for key in _PARTITION if key in plan}
    if isinstance(stages := split.get("stages"), list):
        split["stages"] = [
            {key: stage[key] for key in ("nodes", "replicas") if key in stage}
            if isinstance(stage, Mapping)
            else stage
            for stage in stages
        ]
    return split or dict(plan)


def _flat(name: str, value: Any) -> Facts:
    if isinstance(value, Mapping) and name != "partition":
        return {f"{name}.{key}": one for key, one in value.items()}
    return {name: value}


def _shown(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 100 else text[:97] + "..."
