"""`pipedream`, `pipedream-2bw`, `pipedream-flush`: our own pipeline runtime (rank/pipeline) as a framework.

One step is one minibatch of `case.batch_size` images through the whole pipeline; 2BW and Flush call it a microbatch
and update after several. On the way out the images are counted by the last stage alone.
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.catalog import MODELS
from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.schedule import Layout, Schedule, default_microbatches
from pytest_dnnbench.rank import data, group
from pytest_dnnbench.rank.models import build_model, example_images
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.planning import chosen_plan
from pytest_dnnbench.rank.pipeline.proof import prove_training, prove_validation
from pytest_dnnbench.rank.pipeline.runtime import Batches, Completed, Runtime
from pytest_dnnbench.rank.pipeline.stash import Sgd
from pytest_dnnbench.rank.worker import Step, Worker

_TRACED_IMAGES = 2

PROOF_IMAGE_SIZE = 64
"""Pixels a side of the proof's images for models that take any size: the mathematics is the same, the time is not."""

PROOF_IMAGES = {True: 16, False: 8}
"""In the proof's minibatches, in MNIST's form and in others. Batch normalisation amplifies rounding where it has few
values: efficientnet_b0 on 4 images of 28 pixels turns 1e-16 into 1e-6 within 7 updates, on 16 into 5e-12."""

VALIDATION_IMAGES = 250
"""In the minibatches of the final validation."""


class PipeDreamWorker(Worker):
    """One rank: a replica of one stage. Which stage, and of what, the case's plan says."""

    def connect(self) -> None:
        """Joins torch.distributed's process group."""
        group.join(self.place)

    def build(self) -> None:
        """Plans, cuts the model, and assembles this rank's stage in single precision (bf16 is autocast)."""
        self._plan_stages()
        self._runtime: Runtime = assemble(
            self.place, self.schedule, self._stages(torch.float32), self._optimiser, precision=self._autocast
        )

    def _plan_stages(self) -> None:
        self.plan: Plan = chosen_plan(self.place, self.case, self.request.model)
        layout = Layout(self.plan.replicas)
        asked = int(self.case.options.get("microbatches", 0))
        microbatches = 1 if self.case.framework == "pipedream" else asked or default_microbatches(layout)
        vertical_sync = bool(self.case.options.get("vertical_sync", False))
        self.schedule = Schedule(self.case.framework, layout, microbatches, vertical_sync)
        self._stage, self._replica = layout.place(self.place.rank)

    def _stages(self, dtype: torch.dtype) -> list[nn.Module]:
        """All stages, with the same weights on every rank, and the same as the other frameworks' rank 0 has."""
        torch.manual_seed(self.case.seed)
        model = build_model(self.request.model, self.case.image_size)
        example = example_images(self.case.image_size, _TRACED_IMAGES)
        return [stage.to(dtype) for stage in cut(model, example, [stage.nodes for stage in self.plan.stages])]

    @property
    def _optimiser(self) -> Sgd:
        return Sgd(self.request.learning_rate, self.request.momentum, self.request.weight_decay)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.precision == "bf16")

    def run(self, steps: int) -> Iterator[Step]:
        """As Worker.run; this rank completes the minibatches that come its way."""
        train = self.case.phase == "train"
        first = self.schedule.layout.replicas[0]
        batches: Batches = iter(())
        if self._stage == 0:
            batches = data.batches(self.case, self.request.data, self._replica, first, self.device)
        completed = self._runtime.train(batches, steps) if train else self._runtime.validate(batches, steps)
        for done in completed:
            yield Step(done.minibatch, done.images, done.loss)

    def align(self) -> None:
        """Stages are never at the same step: nobody waits."""

    @property
    def stride(self) -> int:
        """Replicas of a stage take turns."""
        return self.schedule.layout.replicas[self._stage]

    @property
    def images_per_update(self) -> int:
        """As Worker.images_per_update; of the stage with the most replicas, where they differ."""
        stages = range(len(self.schedule.layout.replicas))
        return self.case.batch_size * max(self.schedule.update_size(stage) for stage in stages)

    def close(self) -> None:
        """Ends the transfers and leaves the process group."""
        if hasattr(self, "_runtime"):
            self._runtime.close()
        group.leave()

    def validation(self) -> tuple[int, int] | None:
        """Correct and all images of this rank's share of the validation set, which all ranks pass through together."""
        files = self.request.data
        if files is None or self.case.phase != "train":
            return None
        digits = data.Digits(files, "validate")
        size = VALIDATION_IMAGES
        images, labels = torch.split(digits.images, size), torch.split(digits.labels, size)
        mine = slice(self._replica, None, self.schedule.layout.replicas[0])
        batches = ((i.to(self.device), n.to(self.device)) for i, n in zip(images[mine], labels[mine], strict=True))
        seen = [done for done in self._runtime.validate(batches, len(images)) if done.correct is not None]
        return _counts(seen) if self._stage == self.schedule.layout.last else None

    def data_facts(self) -> dict[str, Scalar]:
        """Source and split of the data."""
        files = self.request.data
        return {"source": "synthetic"} if files is None else {"source": "mnist", "split": files.split}

    def details(self) -> dict[str, object]:
        """The plan, what it promised, and what this rank's stage took."""
        stash, planned = self._runtime.stage.stash, self.plan.stages[self._stage]
        return {
            "variant": self.case.framework,
            "parallelism": "data" if self.plan.is_data_parallel else "pipeline",
            "decided_by": "planner" if self.case.options.get("stages", "auto") == "auto" else "user",
            "plan": self.plan.to_data(),
            "replicas": list(self.plan.replicas),
            "predicted_step_s": self.plan.bottleneck_s,
            "predicted_data_parallel_step_s": self.plan.data_parallel_s,
            "microbatches_per_update": self.schedule.update_size(self._stage),
            "vertical_sync": self.schedule.vertical_sync,
            "bubble_fraction": self._runtime.occupancy.bubble_fraction(self.request.warmup),
            "bubble_fraction_ideal": self.schedule.ideal_bubble(),
            "stage": self._stage,
            "replica": self._replica,
            "versions_kept": stash.kept,
            "version_bytes": stash.version_bytes,
            "stash_bytes": stash.extra_bytes,
            "planned_memory_bytes": planned.memory_bytes,
            "planned_versions": planned.versions,
        }

    def prove(self) -> Correctness:
        """The case's plan and model in float64, on small minibatches, against the single-process reference."""
        if self.request.model in MODELS and self.case.image_size > PROOF_IMAGE_SIZE:
            small = dataclasses.replace(self.case, image_size=PROOF_IMAGE_SIZE)
        else:
            small = self.case
        self._plan_stages()
        stages = self._stages(torch.float64)

        def batch(index: int) -> data.Batch:
            size = PROOF_IMAGES[small.channels == 1]
            return data.synthetic_batch(small, 0, index, torch.device("cpu"), size=size, dtype=torch.float64)

        if self.case.phase == "train":
            return prove_training(self.place, self.schedule, stages, self._optimiser, batch, self._assembled)
        return prove_validation(self.place, self.schedule, stages, batch)

    _assembled = staticmethod(assemble)
    """What puts the proof's runtime together; a test plants its faults here."""


def _counts(seen: list[Completed]) -> tuple[int, int]:
    return sum(int(done.correct) for done in seen if done.correct is not None), sum(done.images for done in seen)
