"""`pipedream`, `pipedream-2bw`, `pipedream-flush`: our own pipeline runtime (rank/pipeline) as a
framework.

A step of `pipedream` is one minibatch of `case.batch_size` images through the whole pipeline. 2BW
and Flush call it a microbatch, and their step is all microbatches that one update averages. The
last stage alone counts images.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from pytest_dnnbench.messages import PipelineFacts
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.options import schedule_of
from pytest_dnnbench.planner.plan_seconds import (
    averages_s,
    flushed_s,
    messages_s,
    minibatch_s,
)
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.staged_worker import (
    VALIDATION_IMAGES,
    StagedWorker,
    counts_of,
    step_of,
)
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.runtime import Completed, Runtime, validation_room
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.proof.proven_pipeline import proof_runs
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workloads import mnist


class PipeDreamWorker(StagedWorker):
    """One rank: a replica of one stage. The case's plan says of which stage, and of which
    operators."""

    def build(self) -> None:
        """Cuts the model as planned, and assembles this rank's stage in the types that the model's
        factory gives it (bf16 is autocast)."""
        self._take_plan()
        self._runtime = self._assembled(self.stages_to_time(), self.rule, self.autocast)
        self._samples = self.samples_of_minibatch

    def _scheduled(self) -> Schedule:
        layout = Layout(self.plan.replicas)
        self._stage, self._replica = layout.place(self.place.rank)
        return schedule_of(self.case.framework, layout, self.case.options)

    def _assembled(
        self,
        stages: Sequence[nn.Module],
        rule: Sgd | OwnRule,
        precision: Callable[[], AbstractContextManager[object]],
    ) -> Runtime:
        return assemble(
            self.place,
            self.schedule,
            stages,
            rule,
            loss=self.workload.loss,
            clip_norm=self.workload.clip_norm,
            precision=precision,
            ends=self._ends,
        )

    @property
    def proof_runs(self) -> tuple[int, int]:
        """As StagedWorker.proof_runs."""
        return proof_runs(self.schedule)

    @property
    def proof_validation(self) -> int:
        """As StagedWorker.proof_validation: not a multiple of anything."""
        return self.schedule.layout.world_size + 1

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; a rank's share of a step is the minibatches of it that this rank runs."""
        train, size = self.case.phase == "train", self._minibatches_per_step
        replicas = self.schedule.layout.replicas
        if self._batches is None:
            feeds = self._stage == 0
            self._batches = self.new_batches(self._replica, replicas[0]) if feeds else iter(())
        self._runtime.occupancy.restart()
        pass_through = self._runtime.train if train else self._runtime.validate
        share: list[Completed] = []
        for minibatch in pass_through(self._batches, steps * size):
            share.append(minibatch)
            if len(share) * replicas[self._stage] >= size:
                yield step_of(minibatch.minibatch // size, share)
                share.clear()

    @property
    def _minibatches_per_step(self) -> int:
        """One, or all that an update of 2BW or Flush averages."""
        return self.schedule.microbatches

    def align(self) -> None:
        """Does not wait: stages are never at the same step."""

    @property
    def stride(self) -> int:
        """As Worker.stride: replicas of a stage take turns at steps of one minibatch, and share
        steps of several."""
        return self.schedule.layout.replicas[self._stage] if self._minibatches_per_step == 1 else 1

    @property
    def turn(self) -> int:
        """As Worker.turn: every replica of every stage has the same number of minibatches."""
        return math.lcm(*self.schedule.layout.replicas) if self._minibatches_per_step == 1 else 1

    @property
    def lead_in(self) -> int:
        """As Worker.lead_in: the steps by which the first stage is ahead; with flushes, which fill
        and drain the pipeline in every step, one."""
        return 1 if self._drains else self._steps_in_flight

    @property
    def run_on(self) -> int:
        """As Worker.run_on: the number of steps by which the first stage is ahead keeps the
        pipeline full to the end of the timed ones."""
        return 0 if self._drains else self._steps_in_flight

    @property
    def _drains(self) -> bool:
        """Whether the pipeline is empty after each step."""
        return self.case.phase == "train" and self.case.framework == "pipedream-flush"

    @property
    def _steps_in_flight(self) -> int:
        """The steps by which the first stage may be ahead of the last."""
        minibatches = self.schedule.most_in_flight
        if self.case.phase != "train":
            minibatches = max(
                replicas * validation_room(self.schedule, stage)
                for stage, replicas in enumerate(self.schedule.layout.replicas)
            )
        return math.ceil(minibatches / self._minibatches_per_step)

    @property
    def samples_per_update(self) -> int:
        """As Worker.samples_per_update; that of the stage with the most replicas, where stages
        differ."""
        stages = range(len(self.schedule.layout.replicas))
        return self._samples * max(self.schedule.update_size(stage) for stage in stages)

    def close(self) -> None:
        """Ends the transfers and leaves the process group."""
        if hasattr(self, "_runtime"):
            self._runtime.close()
        group.leave()

    def validation(self) -> tuple[int, int] | None:
        """As Worker.validation: all ranks pass the whole validation set through together, and the
        last stage counts."""
        files = self.request.data
        if files is None or self.case.phase != "train":
            return None
        digits = mnist.Digits(files, "validate")
        images = torch.split(digits.images, VALIDATION_IMAGES)
        labels = torch.split(digits.labels, VALIDATION_IMAGES)
        share = slice(self._replica, None, self.schedule.layout.replicas[0])
        batches = (
            (i.to(self.device), n.to(self.device))
            for i, n in zip(images[share], labels[share], strict=True)
        )
        completed = list(self._runtime.validate(batches, len(images)))
        return counts_of(completed) if self._stage == self.schedule.layout.last else None

    def metrics(self) -> dict[str, float]:
        """As Worker.metrics: the bubble of this rank in the timed steps, 1 if it had no minibatch
        in them, and the bubble of the schedule alone."""
        size = self._minibatches_per_step
        if self.case.phase != "train":
            return {}
        measured = self._runtime.occupancy.bubble_fraction(
            self.timed.start * size, self.timed.stop * size
        )
        return {
            "bubble_fraction": 1.0 if measured is None else measured,
            "bubble_fraction_ideal": self.schedule.ideal_bubble(),
        }

    def details(self) -> dict[str, object]:
        """As Worker.details: the rule of the schedule on this rank."""
        return {
            "variant": self.case.framework,
            "minibatches_per_step": self._minibatches_per_step,
            "minibatches_per_update": self.schedule.update_size(self._stage),
            "vertical_sync": self.schedule.vertical_sync,
            "planned_versions": self.plan.stages[self._stage].versions,
        }

    def _predicted_s(self) -> float:
        """Seconds of a step: with flushes the schedule, played through; else the busiest stage's
        time for each of its minibatches."""
        plan, schedule = self.plan, self.schedule
        averages, messages = averages_s(plan, self.bandwidth), messages_s(plan, self.bandwidth)
        if schedule.variant == "pipedream-flush":
            return flushed_s(plan, schedule, averages, messages)
        overlaps = self.device.type == "cuda"
        each_s = minibatch_s(plan, schedule, averages, messages, overlaps=overlaps)
        return each_s * self._minibatches_per_step

    def pipeline_facts(self) -> PipelineFacts:
        """As Worker.pipeline_facts."""
        stash, size = self._runtime.stage.stash, self._minibatches_per_step
        return PipelineFacts(
            decision=self.decision,
            shape=self.plan.shape,
            parallelism="data" if self.plan.is_data_parallel else "pipeline",
            predicted_step_time_s=self._predicted_s(),
            predicted_data_parallel_step_time_s=self.plan.data_parallel_s * size,
            stage=self._stage,
            replica=self._replica,
            versions_kept=stash.kept,
            version_bytes=stash.version_bytes,
            stash_bytes=stash.extra_bytes,
            planned_memory_bytes=self.plan.stages[self._stage].memory_bytes,
        )
