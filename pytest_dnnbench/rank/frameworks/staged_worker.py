"""What the frameworks that cut a model into stages share: the case's plan, the model, its stages,
and the proof of a step.

Not here: how stages run (rank/pipeline), what a step is (pipedream.py, torch_pipeline.py).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import msgspec
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_dnnbench.catalog.models import OF_ANY_SIZE
from pytest_dnnbench.messages import Correctness, PlanDecision
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.workload_worker import WorkloadWorker
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.ends import Ends
from pytest_dnnbench.rank.pipeline.runtime import Batches, Completed
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.pipeline.ties import untied
from pytest_dnnbench.rank.profiling.example_input import (
    TRACED_IMAGES,
    example_batch,
    example_input,
    traced_example,
)
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph, trace
from pytest_dnnbench.rank.proof.conditions import ProofCopies, proof_conditions, room_for_draws
from pytest_dnnbench.rank.proof.fingerprint import digest
from pytest_dnnbench.rank.proof.pipeline import prove_training
from pytest_dnnbench.rank.proof.pipeline_validation import prove_validation
from pytest_dnnbench.rank.proof.proven_pipeline import AnyRuntime
from pytest_dnnbench.rank.proof.remembered_draws import RememberedDraws
from pytest_dnnbench.rank.step_forms import laid_out, lay_out
from pytest_dnnbench.rank.update_rule import has_own_update
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workloads import batches
from pytest_dnnbench.rank.workloads.checks import samples_of
from pytest_dnnbench.rank.workloads.image_models import widen
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.structure import Structure
from pytest_dnnbench.rank.workloads.workload import Batch, DataShare
from pytest_dnnbench.step_form import StepForm

PROOF_IMAGE_SIZE = 64
"""Pixels a side of the proof's images, for models that take any size: the mathematics is the same
and the time is shorter."""

PROOF_IMAGES = {True: 16, False: 8}
"""In the proof's minibatches of a model with batch normalisation, in MNIST's form and in others. It
amplifies rounding where it has few values: with 8 images, the bound of efficientnet_b0's gradients
in single precision is 2 to 37 times as wide. Without it, images do not act on each other, and as
many as in the proofs of other frameworks do (`Workload.proof_size`): a quarter of the time."""

FEWER_PROOF_IMAGES = {True: 8, False: 4}
"""In those of its runs in double precision, which has digits to spare: on 8 images of 28 pixels
efficientnet_b0 keeps bounds of 1e-18 of its weights. On 4, a minibatch among them turned 1e-16 into
6e-12 by a learning rate of 1e-5."""

VALIDATION_IMAGES = 250
"""In the minibatches of the final validation."""


class StagedWorker(WorkloadWorker):
    """One rank of a framework that cuts the model as the case's plan says."""

    _normalises_batches: bool | None = None
    """Whether the model has batch normalisation; known once it has been made."""

    _graph: OperatorGraph | None = None
    """That of the case's model, without its weights, once it has been traced."""

    takes_ties = False
    """Whether stages may have a weight in common."""

    _batches: Batches | None = None
    """Made in the first run, and used up in the next ones."""

    def connect(self) -> None:
        """Joins torch.distributed's process group."""
        group.join(self.place)

    def _take_plan(self) -> None:
        """Takes the plan of the request, and sets `schedule`: what the framework computes, as a
        schedule of ours that the reference follows."""
        assert self.request.plan is not None, "planning comes before the proof and the launches"
        # A launch that is resumed has its plan from a journal, as plain data.
        self.decision: PlanDecision = (
            self.request.plan
            if isinstance(self.request.plan, PlanDecision)
            else msgspec.convert(self.request.plan, PlanDecision)
        )
        self.plan: Plan = self.decision.plan
        self.schedule: Schedule = self._scheduled()

    @abstractmethod
    def _scheduled(self) -> Schedule:
        """The schedule of ours, for this plan."""

    @abstractmethod
    def _assembled(
        self,
        stages: Sequence[nn.Module],
        rule: Sgd | OwnRule,
        precision: Callable[[], AbstractContextManager[object]],
    ) -> AnyRuntime:
        """This rank's runtime; a test plants its faults here."""

    def model(self, wide: bool = False) -> nn.Module:
        """The case's model with the same weights on every rank, those of rank 0 of the other
        frameworks, on the rank's device; in its own types or in double precision."""
        model = self._on_host().to(self.device)
        return widen(model) if wide else model

    def _on_host(self) -> nn.Module:
        model = self.model_from(self.case.seed)
        self._normalises_batches = _normalises_batches(model)
        return model

    def stages(self, wide: bool = False) -> list[nn.Module]:
        """All stages of the model, on the host."""
        return self._cut(self._on_host(), wide)

    def stages_to_time(self) -> list[nn.Module]:
        """The same, and the fingerprint of the model that they are cut from."""
        model = self._on_host()
        self._fingerprint = digest(model.state_dict())
        return self._cut(model)

    def _cut(self, model: nn.Module, wide: bool = False) -> list[nn.Module]:
        graph = self._graph_of(model)
        self._ends = self._ends_of(graph)
        operators = [stage.operators for stage in self.plan.stages]
        stages = cut(graph, None, operators, tied=self.takes_ties)
        self._ties = untied(stages)
        for stage in stages:
            lay_out(stage, self.case.form)
        return [widen(stage) if wide else stage for stage in stages]

    def _graph_of(self, model: nn.Module) -> OperatorGraph:
        """The operator graph of a model of the case, traced once where that can be."""
        if self._graph is not None:
            return replace(self._graph, model=model)
        graph = trace(model, traced_example(self.workload))
        self._graph = graph.without_weights()
        return graph

    def _ends_of(self, graph: OperatorGraph) -> Ends:
        """What the workload's minibatches and the model's output are made of."""
        _, targets = example_batch(self.workload, TRACED_IMAGES)
        name = type(self.workload).__name__
        return Ends(
            Structure(example_input(self.workload, TRACED_IMAGES), f"the inputs of {name}"),
            Structure(targets, f"the targets of {name}"),
            graph.returns[True],
            graph.returns[False],
            partial(samples_of, self.workload),
        )

    @property
    def settings(self) -> Sgd:
        """The session's settings of SGD."""
        request, fused = self.request, self.case.form.fused
        return Sgd(request.learning_rate, request.momentum, request.weight_decay, fused)

    @property
    def rule(self) -> Sgd | OwnRule:
        """How stages are updated: by the workload's own optimiser and scheduler, or by SGD."""
        if has_own_update(self.workload):
            return OwnRule(self.workload, self.settings)
        return self.settings

    @property
    def precision(self) -> str:
        """The case's."""
        return self.case.precision

    @property
    def form(self) -> StepForm:
        """The case's."""
        return self.case.form

    @property
    def predicted_step_s(self) -> float:
        """The plan's bottleneck: seconds between two minibatches."""
        return self.plan.bottleneck_s or 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes per second between two ranks, for predictions; of a plan that the user gave,
        infinite."""
        return self.decision.bandwidth_bytes_s or math.inf

    def fingerprint(self) -> str:
        """As Worker.fingerprint, of the whole model before the cut: every rank takes its stage from
        the same model."""
        return self._fingerprint

    @property
    @abstractmethod
    def proof_runs(self) -> tuple[int, int]:
        """Minibatches of the two runs of the proof in float64."""

    @property
    @abstractmethod
    def proof_validation(self) -> int:
        """Minibatches of the proof of a validation."""

    @property
    def proof_copies(self) -> ProofCopies:
        """What the proof cannot do without."""
        return ProofCopies.of_pipeline(self.case.phase)

    def prove(self) -> Correctness:
        """As Worker.prove: the case's plan and model, on small minibatches."""
        self._take_plan()
        self.drawing = RememberedDraws(room_for_draws(self.place))
        prove = prove_training if self.case.phase == "train" else prove_validation
        with proof_conditions(self.request.model, self._on_host, self.place, self.proof_copies):
            return prove(self, self._assembled)

    def batch(self, index: int) -> Batch:
        """Minibatch `index` of the proof."""
        return self._proof_batch(index, PROOF_IMAGES)

    def small_batch(self, index: int) -> Batch:
        """As Proven.small_batch."""
        return self._proof_batch(index, FEWER_PROOF_IMAGES)

    def _proof_batch(self, index: int, normalised: Mapping[bool, int]) -> Batch:
        """A minibatch of the proof, of so many images where batch normalisation needs them."""
        workload = self.workload
        size = workload.proof_size
        if isinstance(workload, ImageWorkload):
            # Other models of torchvision, and a user's, may not take images of another size.
            if self.request.model in OF_ANY_SIZE and self.case.image_size > PROOF_IMAGE_SIZE:
                workload = ImageWorkload(self.request.model, PROOF_IMAGE_SIZE)
            if self._has_batch_normalisation():
                size = normalised[workload.channels == 1]
        batch = batches.synthetic_batch(
            workload, 0, index, self.device, size=size, seed=self.case.seed, proof=True
        )
        return laid_out(batch, self.case.form)

    def _has_batch_normalisation(self) -> bool:
        """Of the case's model."""
        if self._normalises_batches is None:
            self._on_host()
        return bool(self._normalises_batches)

    @property
    def samples_of_minibatch(self) -> int:
        """Samples in a minibatch of the case: its rows, or their tokens."""
        return samples_of(self.workload, example_input(self.workload, self.case.batch_size))

    def new_batches(self, shard: int, shards: int) -> Batches:
        """The data of one shard, from its begin."""
        case, pinned = self.case, self.device.type == "cuda"
        share = DataShare(case.phase, case.batch_size, shard, shards, case.seed, pinned)
        form = case.form
        return (laid_out(b, form) for b in batches.batches(self.workload, share, self.device))


def _normalises_batches(model: nn.Module) -> bool:
    """Whether a model has batch normalisation, as a module or as its statistics."""
    return any(isinstance(part, _BatchNorm) for part in model.modules()) or any(
        name.endswith("running_mean") for name, _ in model.named_buffers()
    )


def step_of(index: int, share: list[Completed]) -> Step:
    """A rank's share of a step: the samples of its minibatches and the mean of their losses, if it
    sees any."""
    losses = [minibatch.loss for minibatch in share if minibatch.loss is not None]
    loss = torch.stack(losses).mean() if losses else None
    return Step(index, sum(minibatch.samples for minibatch in share), loss)


def counts_of(completed: Sequence[Completed]) -> tuple[int, int]:
    """Right answers and images of validated minibatches, on the last stage."""
    right = [int(minibatch.correct) for minibatch in completed if minibatch.correct is not None]
    return sum(right), sum(minibatch.samples for minibatch in completed)
