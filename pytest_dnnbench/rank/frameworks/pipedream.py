"""`pipedream`, `pipedream-2bw`, `pipedream-flush`: our own pipeline runtime (rank/pipeline) as a
framework.

A step of `pipedream` is one minibatch of `case.batch_size` images through the whole pipeline. 2BW
and Flush call it a microbatch, and their step is the several that one update averages. Images are
counted by the last stage alone.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.catalog import MODELS
from pytest_dnnbench.messages import Correctness, PipelineFacts, PlanDecision
from pytest_dnnbench.planner.options import schedule_of
from pytest_dnnbench.planner.plan import Plan, plan_from_data
from pytest_dnnbench.planner.schedule import Layout, Schedule
from pytest_dnnbench.rank import data, group
from pytest_dnnbench.rank.models import build_model, example_images
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.proof import prove_training, prove_validation
from pytest_dnnbench.rank.pipeline.runtime import Batches, Completed, Runtime
from pytest_dnnbench.rank.pipeline.stash import Sgd
from pytest_dnnbench.rank.reference import digest
from pytest_dnnbench.rank.worker import Step, Worker

_TRACED_IMAGES = 2

PROOF_IMAGE_SIZE = 64
"""Pixels a side of the proof's images for models that take any size: the mathematics is the same,
the time is not."""

PROOF_IMAGES = {True: 16, False: 8}
"""In the proof's minibatches, in MNIST's form and in others. Batch normalisation amplifies rounding
where it has few values: efficientnet_b0 on 4 images of 28 pixels turns 1e-16 into 1e-6 within 7
updates, on 16 into 5e-12."""

VALIDATION_IMAGES = 250
"""In the minibatches of the final validation."""


class PipeDreamWorker(Worker):
    """One rank: a replica of one stage. Which stage, and of what, the case's plan says."""

    def connect(self) -> None:
        """Joins torch.distributed's process group."""
        group.join(self.place)

    def build(self) -> None:
        """Cuts the model as planned, and assembles this rank's stage in single precision (bf16 is
        autocast)."""
        self._take_plan()
        self._runtime: Runtime = assemble(
            self.place,
            self.schedule,
            self._stages(torch.float32),
            self._optimiser,
            precision=self._autocast,
        )

    def _take_plan(self) -> None:
        assert self.request.plan is not None, "planning comes before the proof and the launches"
        self.plan: Plan = plan_from_data(self.request.plan["plan"])
        layout = Layout(self.plan.replicas)
        self.schedule: Schedule = schedule_of(self.case.framework, layout, self.case.options)
        self._stage, self._replica = layout.place(self.place.rank)

    def _stages(self, dtype: torch.dtype) -> list[nn.Module]:
        """All stages, with the same weights on every rank, and the same as the other frameworks'
        rank 0 has."""
        torch.manual_seed(self.case.seed)
        model = build_model(self.request.model, self.case.image_size)
        self._fingerprint = digest(model.state_dict())
        example = example_images(self.case.image_size, _TRACED_IMAGES)
        return [
            stage.to(dtype)
            for stage in cut(model, example, [stage.nodes for stage in self.plan.stages])
        ]

    @property
    def _optimiser(self) -> Sgd:
        return Sgd(self.request.learning_rate, self.request.momentum, self.request.weight_decay)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.case.precision == "bf16"
        )

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; a rank's share of a step is the minibatches of it that come its way."""
        train, size = self.case.phase == "train", self._minibatches_per_step
        replicas = self.schedule.layout.replicas
        batches: Batches = iter(())
        if self._stage == 0:
            batches = data.batches(
                self.case, self.request.data, self._replica, replicas[0], self.device
            )
        pass_through = self._runtime.train if train else self._runtime.validate
        share: list[Completed] = []
        for done in pass_through(batches, steps * size):
            share.append(done)
            if len(share) * replicas[self._stage] >= size:
                yield _step(done.minibatch // size, share)
                share.clear()

    @property
    def _minibatches_per_step(self) -> int:
        """One, or all that an update of 2BW or Flush averages."""
        return self.schedule.microbatches

    def align(self) -> None:
        """Stages are never at the same step: nobody waits."""

    @property
    def stride(self) -> int:
        """Replicas of a stage take turns at minibatches, and share the step of several."""
        return self.schedule.layout.replicas[self._stage] if self._minibatches_per_step == 1 else 1

    @property
    def run_on(self) -> int:
        """Steps that keep the pipeline full to the end of the timed ones: as many as the first
        stage is ahead by."""
        if self.case.phase != "train" or self.case.framework == "pipedream-flush":
            return 0
        return -(-self.schedule.most_in_flight // self._minibatches_per_step)

    @property
    def samples_per_update(self) -> int:
        """As Worker.samples_per_update; of the stage with the most replicas, where they differ."""
        stages = range(len(self.schedule.layout.replicas))
        return self.case.batch_size * max(self.schedule.update_size(stage) for stage in stages)

    def close(self) -> None:
        """Ends the transfers and leaves the process group."""
        if hasattr(self, "_runtime"):
            self._runtime.close()
        group.leave()

    def fingerprint(self) -> str:
        """Of the whole model before it was cut: every rank takes its stage from the same."""
        return self._fingerprint

    def validation(self) -> tuple[int, int] | None:
        """Correct and all images of this rank's share of the validation set, which all ranks pass
        through together."""
        files = self.request.data
        if files is None or self.case.phase != "train":
            return None
        digits = data.Digits(files, "validate")
        size = VALIDATION_IMAGES
        images, labels = torch.split(digits.images, size), torch.split(digits.labels, size)
        mine = slice(self._replica, None, self.schedule.layout.replicas[0])
        batches = (
            (i.to(self.device), n.to(self.device))
            for i, n in zip(images[mine], labels[mine], strict=True)
        )
        seen = [
            done
            for done in self._runtime.validate(batches, len(images))
            if done.correct is not None
        ]
        return _counts(seen) if self._stage == self.schedule.layout.last else None

    def data_facts(self) -> dict[str, Scalar]:
        """Source and split of the data."""
        files = self.request.data
        return (
            {"source": "synthetic"} if files is None else {"source": "mnist", "split": files.split}
        )

    def metrics(self) -> dict[str, float]:
        """The bubble of this rank in the timed steps, 1 if none is its own; and what the schedule
        alone makes of it."""
        size, first = self._minibatches_per_step, self.request.warmup
        if self.case.phase != "train":
            return {}
        measured = self._runtime.occupancy.bubble_fraction(
            first * size, (first + self.request.steps) * size
        )
        ideal = self.schedule.ideal_bubble()
        return {
            "bubble_fraction": 1.0 if measured is None else measured,
            "bubble_fraction_ideal": ideal,
        }

    def details(self) -> dict[str, object]:
        """How this rank's steps and updates are made of minibatches."""
        return {
            "variant": self.case.framework,
            "replicas": list(self.plan.replicas),
            "minibatches_per_step": self._minibatches_per_step,
            "minibatches_per_update": self.schedule.update_size(self._stage),
            "vertical_sync": self.schedule.vertical_sync,
            "planned_versions": self.plan.stages[self._stage].versions,
        }

    def pipeline_facts(self) -> PipelineFacts:
        """The plan, what it promised, and what this rank's stage took."""
        assert self.request.plan is not None, "taken in build"
        stash, planned = self._runtime.stage.stash, self.plan.stages[self._stage]
        whole = self._minibatches_per_step / (1 - self.schedule.ideal_bubble())
        decision = PlanDecision(**{**self.request.plan, "plan": self.plan})
        return PipelineFacts(
            decision=decision,
            shape=self.plan.shape,
            parallelism="data" if self.plan.is_data_parallel else "pipeline",
            predicted_step_time_s=self._bottleneck_s * whole,
            predicted_data_parallel_step_time_s=self.plan.data_parallel_s
            * self._minibatches_per_step,
            stage=self._stage,
            replica=self._replica,
            versions_kept=stash.kept,
            version_bytes=stash.version_bytes,
            stash_bytes=stash.extra_bytes,
            planned_memory_bytes=planned.memory_bytes,
        )

    @property
    def _bottleneck_s(self) -> float:
        assert self.plan.bottleneck_s is not None, "a feasible plan has one"
        return self.plan.bottleneck_s

    def prove(self) -> Correctness:
        """The case's plan and model in float64, on small minibatches, against the single-process
        reference."""
        if self.request.model in MODELS and self.case.image_size > PROOF_IMAGE_SIZE:
            small = dataclasses.replace(self.case, image_size=PROOF_IMAGE_SIZE)
        else:
            small = self.case
        self._take_plan()
        stages = self._stages(torch.float64)

        def batch(index: int) -> data.Batch:
            size = PROOF_IMAGES[small.channels == 1]
            return data.synthetic_batch(
                small, 0, index, torch.device("cpu"), size=size, dtype=torch.float64
            )

        if self.case.phase == "train":
            return prove_training(
                self.place, self.schedule, stages, self._optimiser, batch, self._assembled
            )
        return prove_validation(self.place, self.schedule, stages, batch)

    _assembled = staticmethod(assemble)
    """What puts the proof's runtime together; a test plants its faults here."""


def _step(index: int, share: list[Completed]) -> Step:
    """What a rank has done of a step: the images of its minibatches and the mean of their losses,
    if it sees any."""
    losses = [done.loss for done in share if done.loss is not None]
    loss = torch.stack(losses).mean() if losses else None
    return Step(index, sum(done.samples for done in share), loss)


def _counts(seen: list[Completed]) -> tuple[int, int]:
    return sum(int(done.correct) for done in seen if done.correct is not None), sum(
        done.samples for done in seen
    )
