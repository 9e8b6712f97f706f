"""The Plan: which operators run on which stage, on how many replicas, and the predicted cost.

What lives here: plain records and their JSON file. Not here: how a plan is found (predict.py) or
shown (table.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.parsing import converted, parsed, shortened

SCHEMA = 1
"""Of the JSON. History: 1, the first."""

_FIX = "write one with `dnnbench plan --json`"


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage: states first..last of the profile, both included.

    compute_s        forward and backward seconds of one minibatch on one replica
    parameter_bytes, output_bytes    of one replica: its weights, and what it sends on per minibatch
    versions         of its weights, and of its activations, that each replica keeps
    memory_bytes     of one replica at its fullest (memory.py)
    operators        ids of the operators that run on the stage
    forward_s        the part of compute_s that is forward; None in a plan that does not say
    """

    first: int
    last: int
    replicas: int
    compute_s: float
    parameter_bytes: float
    output_bytes: float
    memory_bytes: float
    versions: int
    operators: tuple[str, ...]
    forward_s: float | None = None

    @property
    def passes_s(self) -> tuple[float, float]:
        """Forward and backward seconds of one minibatch. Where the plan does not say, a backward
        pass takes twice as long as a forward: it has a product with each weight more."""
        forward_s = self.compute_s / 3 if self.forward_s is None else self.forward_s
        return forward_s, self.compute_s - forward_s


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages and their predicted times, in seconds per minibatch in the steady state.

    workers             per level, innermost first; the stages may use fewer
    bottleneck_s        between two minibatches that complete; None without stages
    data_parallel_s     the same when every worker runs the whole model, whether or not it fits
    data_parallel_memory_bytes    of each worker then
    single_s            on one worker
    reason              why nothing fits, where there are no stages
    remarks             what makes the profile, and so the plan, doubtful
    update_s            of an update of all weights, as the optimiser alone takes; 0 if unknown
    add_s               of adding the gradients of all weights to others; 0 if unknown
    halves              what a backward pass in two takes, over a whole one: the gradients of the
                        inputs, and those of the weights
    """

    cost_model: str
    workers: tuple[int, ...]
    bottleneck_s: float | None
    data_parallel_s: float
    data_parallel_memory_bytes: float
    single_s: float
    stages: tuple[PlannedStage, ...]
    reason: str = ""
    remarks: tuple[str, ...] = ()
    update_s: float = 0.0
    add_s: float = 0.0
    halves: tuple[float, float] = (0.5, 0.5)

    @property
    def replicas(self) -> tuple[int, ...]:
        """Of each stage, first stage first: (2, 1) is the shape "2-1"."""
        return tuple(stage.replicas for stage in self.stages)

    @property
    def shape(self) -> str:
        """The replicas of each stage as text: "2-1"."""
        return "-".join(str(count) for count in self.replicas)

    @property
    def is_data_parallel(self) -> bool:
        """True where the plan is no pipeline at all: every worker in use runs the whole model."""
        return len(self.stages) == 1

    def require_feasible(self) -> "Plan":
        """The plan itself. Raises PlanError with the reason where it has no stages."""
        if not self.stages:
            raise PlanError(self.reason or f"the plan has no stages: {_FIX}")
        return self

    def to_json(self) -> str:
        """The file that `read_plan` reads, for people and programs."""
        document = {"schema": SCHEMA, **msgspec.to_builtins(self)}
        return json.dumps(document, indent=1, allow_nan=False)


def read_plan(path: str | Path) -> Plan:
    """The plan in a file that `plan --json` has written. Raises PlanError for a file that cannot be
    read, is of another schema, or lacks a key."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PlanError(f"--dnn-plan {path} cannot be read ({error.strerror}): {_FIX}") from error
    try:
        return parse_plan(content)
    except PlanError as error:
        raise PlanError(f"--dnn-plan {path}: {error}") from error


def parse_plan(content: str | bytes) -> Plan:
    """The plan in the text of `Plan.to_json`. Raises PlanError, which says what is wrong and
    where."""
    try:
        document = parsed(content)
    except ValueError as error:
        raise PlanError(f"the file holds no plan ({error}): {_FIX}") from error
    if document.get("schema") != SCHEMA:
        schema = shortened(repr(document.get("schema")))
        raise PlanError(f"plan schema is {schema}, this version reads {SCHEMA}: plan again")
    try:
        plan = converted(document, Plan)
        _check(plan)
    except ValueError as error:
        raise PlanError(f"not a plan: {error}; plan again") from error
    return plan


def _check(plan: Plan) -> None:
    """Raises ValueError for figures and texts that no planner writes."""
    figures = [plan.data_parallel_s, plan.data_parallel_memory_bytes, plan.single_s]
    if plan.stages and plan.bottleneck_s is None:
        raise ValueError("there are stages, and `$.bottleneck_s` is null")
    figures += [] if plan.bottleneck_s is None else [plan.bottleneck_s]
    figures += [plan.update_s, plan.add_s, *plan.halves]
    for stage in plan.stages:
        figures += [stage.compute_s, stage.parameter_bytes, stage.output_bytes, stage.memory_bytes]
        figures += stage.passes_s
        if min(stage.replicas, stage.versions) < 1 or not 0 <= stage.first <= stage.last:
            raise ValueError(
                f"a stage of states {stage.first} to {stage.last} with"
                f" {counted(stage.replicas, 'replica')} and {counted(stage.versions, 'version')}"
                " of its weights"
            )
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        raise ValueError("a time or a size is negative or not finite")
    texts = [plan.cost_model, plan.reason, *plan.remarks]
    texts += [operator for stage in plan.stages for operator in stage.operators]
    if not all(text.isprintable() for text in texts):
        raise ValueError("a text holds characters that cannot be printed")
