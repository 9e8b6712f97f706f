"""`mp`, `gpipe`, `1f1b`, `interleaved`, `bfs`, `zero-bubble`, `zbv`, `dualpipev`: the schedules of
torch.distributed.pipelining over the stages of our planner.

A step is one update: `microbatches` microbatches of `case.batch_size` images, over all replicas of
the pipeline. The rank with the last stage alone counts images. Not here: what a schedule needs
(planner/synchronous.py), how it runs (rank/pipeline/torch_runtime.py).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.messages import PipelineFacts
from pytest_dnnbench.planner.bubbles import Pass, batch_seconds, idle_fractions
from pytest_dnnbench.planner.plan_seconds import averages_s, messages_s, pass_seconds
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.planner.synchronous import Pipelines, pipelines_of
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.held_bytes import held_bytes
from pytest_dnnbench.rank.frameworks.staged_worker import StagedWorker, counts_of, step_of
from pytest_dnnbench.rank.pipeline.runtime import Completed
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.pipeline.torch_runtime import TorchRuntime
from pytest_dnnbench.rank.whole import part
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workloads import mnist

_NO_LABEL = -100
"""Of images that fill up the last microbatches of a validation: no answer is right, and torch's
losses leave it out."""


class TorchPipelineWorker(StagedWorker):
    """One rank of a pipeline: one or more stages."""

    takes_ties = True

    def build(self) -> None:
        """Cuts the model as planned, and takes this rank's stages in the types that the model's
        factory gives it (bf16 is autocast)."""
        self._take_plan()
        self._runtime = self._assembled(self.stages_to_time(), self.rule, self.autocast)
        self._samples = self.samples_of_minibatch
        self._orders: list[list[Pass]] = []

    def _scheduled(self) -> Schedule:
        case = self.case
        self._pipelines: Pipelines = pipelines_of(
            case.framework, self.place.world_size, case.options
        )
        return self._pipelines.accumulation()

    def _assembled(
        self,
        stages: Sequence[nn.Module],
        rule: Sgd | OwnRule,
        precision: Callable[[], AbstractContextManager[object]],
    ) -> TorchRuntime:
        return TorchRuntime(
            self.place,
            self._pipelines,
            stages,
            rule,
            loss=self.workload.loss,
            clip_norm=self.workload.clip_norm,
            precision=precision,
            ties=self._ties,
            ends=self._ends,
        )

    @property
    def proof_runs(self) -> tuple[int, int]:
        """As StagedWorker.proof_runs: whole updates, more in the first run than in the second."""
        return 2 * self._pipelines.microbatches, self._pipelines.microbatches

    @property
    def proof_validation(self) -> int:
        """As StagedWorker.proof_validation: two rounds."""
        return 2 * self._pipelines.microbatches

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; every rank completes every step."""
        runtime, pipelines = self._runtime, self._pipelines
        if self._batches is None:
            takes = runtime.has_first or runtime.has_last
            shard = runtime.replica, pipelines.replicas
            self._batches = self.new_batches(*shard) if takes else iter(())
        runtime.passes.restart()
        pass_through = runtime.train if self.case.phase == "train" else runtime.validate
        share: list[Completed] = []
        for minibatch in pass_through(self._batches, steps * pipelines.microbatches):
            share.append(minibatch)
            if len(share) == pipelines.microbatches_of_each:
                yield step_of(minibatch.minibatch // pipelines.microbatches, share)
                share.clear()

    def align(self) -> None:
        """Does not wait: ranks of a pipeline end a step one after the other."""

    @property
    def lead_in(self) -> int:
        """As Worker.lead_in: the pipeline fills and drains in every step."""
        return 1

    @property
    def samples_per_update(self) -> int:
        """As Worker.samples_per_update."""
        return self._samples * self._pipelines.microbatches

    def close(self) -> None:
        """Leaves the process group."""
        if hasattr(self, "_runtime"):
            self._runtime.close()
        group.leave()

    def validation(self) -> tuple[int, int] | None:
        """As Worker.validation: each replica passes its share of the validation set through, and
        the rank with the last stage counts."""
        files = self.request.data
        if files is None or self.case.phase != "train":
            return None
        digits, runtime, pipelines = mnist.Digits(files, "validate"), self._runtime, self._pipelines
        share = slice(runtime.replica, None, pipelines.replicas)
        images, labels = digits.images[share], digits.labels[share]
        size = self.case.batch_size
        steps = math.ceil(len(images) / (size * pipelines.microbatches_of_each))
        # torch's stages have one size of microbatch.
        missing = steps * size * pipelines.microbatches_of_each - len(images)
        images = torch.cat([images, images[:1].expand(missing, *images.shape[1:])])
        labels = torch.cat([labels, labels.new_full((missing,), _NO_LABEL)])
        batches = (
            (part.to(self.device), wanted.to(self.device))
            for part, wanted in zip(
                torch.split(images, size), torch.split(labels, size), strict=True
            )
        )
        completed = list(runtime.validate(batches, steps * pipelines.microbatches))
        right, samples = counts_of(completed)
        return (right, samples - missing) if runtime.has_last else None

    def metrics(self) -> dict[str, float]:
        """As Worker.metrics: the bubble of this rank in the timed steps, the one that the
        schedule's own order causes with the median time of each kind of pass in them, and what the
        rank holds of its stages between two steps."""
        passes = self._runtime.passes
        self._orders, seconds = self._gathered(passes.seconds(self.timed))
        held = held_bytes(self._runtime.modules.values(), self._runtime.optimisers)
        if self.case.phase != "train":
            return held
        measured = passes.occupancy.bubble_fraction(self.timed.start, self.timed.stop)
        ideal = idle_fractions(self._orders, seconds)[self._runtime.place]
        return {
            "bubble_fraction": 1.0 if measured is None else measured,
            "bubble_fraction_ideal": ideal,
            **held,
        }

    def _gathered(
        self, seconds: dict[tuple[int, str], float]
    ) -> tuple[list[list[Pass]], dict[tuple[int, str], float]]:
        """The orders of all ranks of this pipeline, and the times of all its stages."""
        runtime = self._runtime
        parts: list[tuple[list[Pass], dict[tuple[int, str], float]]]
        parts = [([], {}) for _ in range(self._pipelines.ranks)]
        dist.all_gather_object(parts, (runtime.passes.order(), seconds), runtime.group)
        together = {key: value for _, part in parts for key, value in part.items()}
        return [order for order, _ in parts], together

    def details(self) -> dict[str, object]:
        """As Worker.details: the schedule, and the stages of this rank."""
        return {
            "schedule": self._pipelines.rule.torch_class,
            "stages": list(self._runtime.modules),
            "microbatches_per_step": self._pipelines.microbatches,
            "minibatches_per_update": self._pipelines.microbatches,
            "replicas": self._pipelines.replicas,
            "replicas_hold": "parts" if self._pipelines.shares_out else "copies",
        }

    def _predicted_s(self) -> float:
        """Seconds of a step: the schedule's own order with the plan's times, messages and what
        torch's runtime takes; last, each stage averages over its replicas and updates."""
        pipelines, runtime_s = self._pipelines, self.decision.runtime_s or 0.0
        averages = averages_s(self.plan, self.bandwidth)
        seconds = pass_seconds(self.plan, averages, *pipelines.additions, runtime_s)
        orders = [
            order + [Pass(stage, "U", 0) for stage in pipelines.stages_of(rank)]
            for rank, order in enumerate(self._orders)
        ]
        messages = {
            pair: each
            for pair, each in messages_s(self.plan, self.bandwidth).items()
            if len({pipelines.place_of(stage) for stage in pair}) > 1
        }
        return float(batch_seconds(orders, seconds, messages))

    def pipeline_facts(self) -> PipelineFacts:
        """As Worker.pipeline_facts."""
        runtime, pipelines = self._runtime, self._pipelines
        own_stages = [self.plan.stages[number] for number in runtime.modules]
        each = pipelines.stages_per_rank
        return PipelineFacts(
            decision=self.decision,
            shape=str(pipelines.layout) + (f" x{each}" if each > 1 else ""),
            parallelism="pipeline",
            predicted_step_time_s=self._predicted_s(),
            predicted_data_parallel_step_time_s=self.plan.data_parallel_s * pipelines.microbatches,
            stage=min(runtime.modules),
            replica=runtime.replica,
            versions_kept=1,
            version_bytes=sum(
                part(parameter).nbytes
                for module in runtime.modules.values()
                for parameter in module.parameters()
                if parameter.requires_grad
            ),
            stash_bytes=0,
            planned_memory_bytes=sum(stage.memory_bytes for stage in own_stages),
        )
