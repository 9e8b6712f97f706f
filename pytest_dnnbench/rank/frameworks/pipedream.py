"""`pipedream`, `pipedream-2bw`, `pipedream-flush`: our own pipeline runtime (rank/pipeline) as a
framework.

A step of `pipedream` is one minibatch of `case.batch_size` images through the whole pipeline. 2BW
and Flush call it a microbatch, and their step is all microbatches that one update averages. The
last stage alone counts images.
"""

import math
from collections.abc import Iterator, Sequence

import msgspec
import torch
from torch import nn

from pytest_dnnbench.catalog import OF_ANY_SIZE
from pytest_dnnbench.messages import Correctness, PipelineFacts, PlanDecision
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.options import schedule_of
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank import batches, data, group
from pytest_dnnbench.rank.frameworks.workload_worker import WorkloadWorker
from pytest_dnnbench.rank.image_workload import ImageWorkload
from pytest_dnnbench.rank.models import build_model, example_images, seed, widen
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.proof import prove_training, prove_validation
from pytest_dnnbench.rank.pipeline.runtime import Batches, Completed, Runtime, validation_room
from pytest_dnnbench.rank.pipeline.stash import Sgd
from pytest_dnnbench.rank.profiling.operator_graph import TRACED_IMAGES
from pytest_dnnbench.rank.proof_conditions import proof_conditions
from pytest_dnnbench.rank.reference import digest
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workload import Share

PROOF_IMAGE_SIZE = 64
"""Pixels a side of the proof's images, for models that take any size: the mathematics is the same
and the time is shorter."""

PROOF_IMAGES = {True: 16, False: 8}
"""In the proof's minibatches, in MNIST's form and in others. Batch normalisation amplifies rounding
where it has few values: efficientnet_b0 on 4 images of 28 pixels turns 1e-16 into 1e-6 within 7
updates, on 16 into 5e-12."""

VALIDATION_IMAGES = 250
"""In the minibatches of the final validation."""


class PipeDreamWorker(WorkloadWorker):
    """One rank: a replica of one stage. The case's plan says of which stage, and of which
    operators."""

    _batches: Batches | None = None
    """Made in the first run, and used up in the next ones."""

    def connect(self) -> None:
        """Joins torch.distributed's process group."""
        group.join(self.place)

    def build(self) -> None:
        """Cuts the model as planned, and assembles this rank's stage in the types that the model's
        factory gives it (bf16 is autocast)."""
        self._take_plan()
        self._runtime: Runtime = assemble(
            self.place,
            self.schedule,
            self.stages(),
            self.optimiser,
            precision=self.autocast,
        )

    def _take_plan(self) -> None:
        assert self.request.plan is not None, "planning comes before the proof and the launches"
        # A launch that is resumed has its plan from a journal, as plain data.
        self.decision: PlanDecision = (
            self.request.plan
            if isinstance(self.request.plan, PlanDecision)
            else msgspec.convert(self.request.plan, PlanDecision)
        )
        self.plan: Plan = self.decision.plan
        layout = Layout(self.plan.replicas)
        self.schedule: Schedule = schedule_of(self.case.framework, layout, self.case.options)
        self._stage, self._replica = layout.place(self.place.rank)

    def model(self, wide: bool = False) -> nn.Module:
        """The case's model with the same weights on every rank, those of rank 0 of the other
        frameworks, on the rank's device; in its own types or in double precision."""
        model = self._on_host().to(self.device)
        return widen(model) if wide else model

    def _on_host(self) -> nn.Module:
        seed(self.case.seed)
        return build_model(self.request.model, self.case.image_size)

    def stages(self, wide: bool = False) -> list[nn.Module]:
        """All stages of the model, on the host."""
        model = self._on_host()
        self._fingerprint = digest(model.state_dict())
        example = example_images(self.case.image_size, TRACED_IMAGES)
        stages = cut(model, example, [stage.nodes for stage in self.plan.stages])
        return [widen(stage) if wide else stage for stage in stages]

    @property
    def optimiser(self) -> Sgd:
        """The case's SGD."""
        return Sgd(self.request.learning_rate, self.request.momentum, self.request.weight_decay)

    @property
    def precision(self) -> str:
        """The case's."""
        return self.case.precision

    @property
    def predicted_step_s(self) -> float:
        """The plan's bottleneck: seconds between two minibatches."""
        return self.plan.bottleneck_s or 0.0

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; a rank's share of a step is the minibatches of it that this rank runs."""
        train, size = self.case.phase == "train", self._minibatches_per_step
        replicas = self.schedule.layout.replicas
        if self._batches is None:
            self._batches = self._new_batches(replicas[0]) if self._stage == 0 else iter(())
        self._runtime.occupancy.restart()
        pass_through = self._runtime.train if train else self._runtime.validate
        share: list[Completed] = []
        for done in pass_through(self._batches, steps * size):
            share.append(done)
            if len(share) * replicas[self._stage] >= size:
                yield _step(done.minibatch // size, share)
                share.clear()

    def _new_batches(self, shards: int) -> Batches:
        case, pinned = self.case, self.device.type == "cuda"
        share = Share(case.phase, case.batch_size, self._replica, shards, case.seed, pinned)
        return batches.batches(self.workload, share, self.device)

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
        return self.case.batch_size * max(self.schedule.update_size(stage) for stage in stages)

    def close(self) -> None:
        """Ends the transfers and leaves the process group."""
        if hasattr(self, "_runtime"):
            self._runtime.close()
        group.leave()

    def fingerprint(self) -> str:
        """As Worker.fingerprint, of the whole model before the cut: every rank takes its stage from
        the same model."""
        return self._fingerprint

    def validation(self) -> tuple[int, int] | None:
        """As Worker.validation: all ranks pass the whole validation set through together, and the
        last stage counts."""
        files = self.request.data
        if files is None or self.case.phase != "train":
            return None
        digits = data.Digits(files, "validate")
        images = torch.split(digits.images, VALIDATION_IMAGES)
        labels = torch.split(digits.labels, VALIDATION_IMAGES)
        share = slice(self._replica, None, self.schedule.layout.replicas[0])
        minibatches = (
            (i.to(self.device), n.to(self.device))
            for i, n in zip(images[share], labels[share], strict=True)
        )
        completed = list(self._runtime.validate(minibatches, len(images)))
        return _counts(completed) if self._stage == self.schedule.layout.last else None

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

    def pipeline_facts(self) -> PipelineFacts:
        """As Worker.pipeline_facts. A step takes the bottleneck for each of its minibatches, and
        with flushes the bubble on top."""
        assert self.plan.bottleneck_s is not None, "a feasible plan has one"
        stash, size = self._runtime.stage.stash, self._minibatches_per_step
        return PipelineFacts(
            decision=self.decision,
            shape=self.plan.shape,
            parallelism="data" if self.plan.is_data_parallel else "pipeline",
            predicted_step_time_s=self.plan.bottleneck_s
            * size
            / (1 - self.schedule.ideal_bubble()),
            predicted_data_parallel_step_time_s=self.plan.data_parallel_s * size,
            stage=self._stage,
            replica=self._replica,
            versions_kept=stash.kept,
            version_bytes=stash.version_bytes,
            stash_bytes=stash.extra_bytes,
            planned_memory_bytes=self.plan.stages[self._stage].memory_bytes,
        )

    def prove(self) -> Correctness:
        """As Worker.prove: the case's plan and model, on small minibatches."""
        self._take_plan()
        prove = prove_training if self.case.phase == "train" else prove_validation
        with proof_conditions(self.request.model, self._on_host):
            return prove(self, self._assembled)

    def batch(self, index: int) -> data.Batch:
        """Minibatch `index` of the proof, in float64, of images that float32 has as well."""
        images = ImageWorkload(self.request.model, self.case.image_size)
        # Other models of torchvision, and a user's, may not take images of another size.
        if self.request.model in OF_ANY_SIZE and self.case.image_size > PROOF_IMAGE_SIZE:
            images = ImageWorkload(self.request.model, PROOF_IMAGE_SIZE)
        batch = batches.synthetic_batch(
            images,
            0,
            index,
            self.device,
            size=PROOF_IMAGES[images.channels == 1],
            seed=self.case.seed,
        )
        return batches.wide(batch)

    _assembled = staticmethod(assemble)
    """Puts the proof's runtime together; a test plants its faults here."""


def _step(index: int, share: list[Completed]) -> Step:
    """A rank's share of a step: the images of its minibatches and the mean of their losses, if it
    sees any."""
    losses = [done.loss for done in share if done.loss is not None]
    loss = torch.stack(losses).mean() if losses else None
    return Step(index, sum(done.samples for done in share), loss)


def _counts(completed: Sequence[Completed]) -> tuple[int, int]:
    """Right answers and images of validated minibatches, on the last stage."""
    right = [int(done.correct) for done in completed if done.correct is not None]
    return sum(right), sum(done.samples for done in completed)
