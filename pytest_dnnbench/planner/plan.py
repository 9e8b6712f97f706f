"""The Plan: which nodes run on which stage, on how many replicas, and what that is predicted to
cost.

What lives here: plain records and their JSON. Not here: how a plan is found (predict.py) or shown
(table.py).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_dnnbench.errors import PlanError

# History of the JSON schema: 1, the first.
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage of states first..last of the profile, both included; `nodes` are the ids that run on
    it.

    compute_s        forward and backward seconds of one minibatch on one replica
    parameter_bytes, output_bytes    of one replica: its weights, and what it hands on for one minibatch
    versions         of its weights, and of its activations, that each replica keeps
    memory_bytes     of one replica at its fullest (memory.py)
    """

    first: int
    last: int
    replicas: int
    compute_s: float
    parameter_bytes: float
    output_bytes: float
    memory_bytes: float
    versions: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Times are seconds per minibatch in the steady state. Without stages there is a `reason` why
    nothing fits.

    workers             per level, innermost first; the stages may use fewer
    bottleneck_s        between two minibatches that complete; None without stages
    data_parallel_s     the same when every worker runs the whole model, whether or not it fits
    data_parallel_memory_bytes    of each worker then
    single_s            on one worker
    """

    cost_model: str
    workers: tuple[int, ...]
    bottleneck_s: float | None
    data_parallel_s: float
    data_parallel_memory_bytes: float
    single_s: float
    stages: tuple[Stage, ...]
    reason: str = ""

    @property
    def replicas(self) -> tuple[int, ...]:
        """Of each stage, first stage first: (2, 1) is the shape "2-1"."""
        return tuple(stage.replicas for stage in self.stages)

    @property
    def shape(self) -> str:
        return "-".join(str(count) for count in self.replicas)

    @property
    def is_data_parallel(self) -> bool:
        """True where the plan is no pipeline at all: every worker in use runs the whole model."""
        return len(self.stages) == 1

    def require_feasible(self) -> "Plan":
        """The plan itself; raises PlanError with the reason where there is none."""
        if not self.stages:
            raise PlanError(self.reason)
        return self

    def to_data(self) -> dict[str, Any]:
        """Plain JSON data, byte counts as whole numbers where they are."""
        data = asdict(self)
        data["workers"] = list(self.workers)
        data["stages"] = [
            {
                key: _whole(value) if key.endswith("_bytes") else value
                for key, value in stage.items()
            }
            | {"nodes": list(stage["nodes"])}
            for stage in data["stages"]
        ]
        data["data_parallel_memory_bytes"] = _whole(self.data_parallel_memory_bytes)
        return {"schema": SCHEMA, **data}

    def to_json(self) -> str:
        return json.dumps(self.to_data(), indent=1, allow_nan=False)


def plan_from_data(data: dict[str, Any]) -> Plan:
    """The plan in the data of `to_data`. Raises PlanError for data of another schema or with other
    keys."""
    if data.get("schema") != SCHEMA:
        raise PlanError(
            f"plan schema is {data.get('schema')!r}, this version reads {SCHEMA}: plan again"
        )
    fields = {key: value for key, value in data.items() if key != "schema"}
    try:
        stages = tuple(
            Stage(**stage | {"nodes": tuple(stage["nodes"])}) for stage in fields["stages"]
        )
        return Plan(**fields | {"workers": tuple(fields["workers"]), "stages": stages})
    except (KeyError, TypeError) as error:
        raise PlanError(f"not a plan: {error}; plan again") from error


def read_plan(path: str | Path) -> Plan:
    """The plan in a file that `plan --json` has written. Raises PlanError when there is none in
    it."""
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise PlanError(
            f"plan {path} cannot be read ({error}): write one with `plan --json`"
        ) from error
    if not isinstance(data, dict):
        raise PlanError(f"plan {path} holds no plan: write one with `plan --json`")
    return plan_from_data(data)


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value
