"""PipelineStages: what the `pipeline_stages` fixture gives to a user's own tests, which run the
stages of a pipeline on ranks."""

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
        """Calls `function(runtime, *arguments)` on every stage rank; returns one result per rank,
        in rank order.

        `runtime` is a rank.pipeline.runtime.Runtime, of which all ranks must call the same methods
        in the same order. The function must be importable. Raises RankFailure as `Ranks.run` does,
        and PlanError for stages that do not fit the model.
        """
        return self.ranks.launch(_CALL, self.request, target_of(function), *arguments)

    def train(self, *runs: Sequence[tuple[Any, Any]]) -> list[StageReport]:
        """Trains on the (images, labels) of each run; the pipeline is drained between two runs. The
        weights do not outlive the call."""
        return self.ranks.launch(_CALL, self.request, _TRAIN, runs)


def replicas_of(stages: Stages) -> tuple[int, ...]:
    """The replicas of each stage: `stages` is a number of stages (3, or "3": one rank each), or
    the replicas themselves ("2-1" or (2, 1))."""
    if isinstance(stages, str):
        first, *others = map(int, stages.split("-"))
        return replicas_of((first, *others) if others else first)
    return Layout((1,) * stages if isinstance(stages, int) else tuple(stages)).replicas


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
