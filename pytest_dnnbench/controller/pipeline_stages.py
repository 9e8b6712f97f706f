"""Running pipeline stages for a user's own tests: the `pipeline_stages` fixture gives a
PipelineStages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.ranks import Ranks, target_of
from pytest_dnnbench.messages import PipelineRequest, StageReport
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import default_microbatches

_CALL = "pytest_dnnbench.rank.pipeline.stage_ranks:call"
_TRAIN = ("pytest_dnnbench.rank.pipeline.stage_ranks", "train", None)

Model = str | Callable[..., Any]
Stages = int | str | Sequence[int]


@dataclass(frozen=True)
class PipelineStages:
    """The stage ranks of one model. Each call starts fresh ranks, runs them and ends them."""

    ranks: Ranks
    request: PipelineRequest

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Calls `function(runtime, *arguments)` on every stage rank, in rank order; returns one
        result per rank.

        `runtime` is rank.pipeline.runtime.Runtime: all ranks must call the same of its runs. The
        function must be importable. Raises RankFailure as `Ranks.run` does, and PlanError for
        stages that do not fit.
        """
        return self.ranks.launch(_CALL, self.request, target_of(function), *arguments)

    def train(self, *runs: Sequence[tuple[Any, Any]]) -> list[StageReport]:
        """Trains on the (images, labels) of each run, with a drain in between; the weights live for
        one call."""
        return self.ranks.launch(_CALL, self.request, _TRAIN, runs)


def replicas_of(stages: Stages) -> tuple[int, ...]:
    """Replicas per stage of 3 (three stages, one rank each), "2-1" or (2, 1)."""
    if isinstance(stages, int):
        return Layout((1,) * stages).replicas
    if isinstance(stages, str):
        parts = stages.split("-")
        return (
            replicas_of(int(stages)) if len(parts) == 1 else Layout(tuple(map(int, parts))).replicas
        )
    return Layout(tuple(stages)).replicas


def pipeline_stages(
    ranks: Callable[[int], Ranks],
    model: Model,
    stages: Stages,
    *,
    catalog: Catalog | None = None,
    **settings: Any,
) -> PipelineStages:
    """The pipeline of a model in stages; `ranks(n)` gives n ranks; `settings` are the fields of
    PipelineRequest.

    `model` is a name of the catalog (by default the built-in one), or a factory: a top-level
    function, or "module:function". Raises UsageError for an unknown model, and PlanError for stages
    that cannot be.
    """
    replicas = replicas_of(stages)
    if settings.get("variant", "pipedream") != "pipedream":
        settings.setdefault("microbatches", default_microbatches(Layout(replicas)))
    if isinstance(model, str):
        target = (catalog or Catalog()).model(model)
    else:
        target = "{}:{}".format(*target_of(model)[:2])
    return PipelineStages(ranks(sum(replicas)), PipelineRequest(target, replicas, **settings))
