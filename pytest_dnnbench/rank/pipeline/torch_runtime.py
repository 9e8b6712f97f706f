"""One rank's run through a pipeline that torch.distributed.pipelining schedules.

    m microbatches ──> torch's schedule ──> gradients ──> mean over replicas ──> update
                       (our stages)          of m each     (GradientMean)

A microbatch is a minibatch of the workload's own, never a part of one: its tensors wait on the
ranks that have the first or the last stage until torch calls for its number. So nothing is split,
and an input need not have samples in any dimension.

The runtime gives what runtime.py gives, so the same proof and the same worker can hold both.
Replicas with copies are averaged by hand: schedules that split the backward pass go around the
hooks of DistributedDataParallel, which would average nothing. Where replicas share their weights
out, torch averages (shared_stage.py), and from there to the update everything is a part. Not here:
which ranks run which stages (planner/synchronous.py), the cut of the model (cut.py), the notes of
passes (passes.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import pipelining
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler

from pytest_dnnbench.errors import PlanError, UsageError
from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.synchronous import Pipelines
from pytest_dnnbench.rank.fused_parts import update_parts
from pytest_dnnbench.rank.pipeline.ends import ONE_EACH, Ends
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean
from pytest_dnnbench.rank.pipeline.passes import NotedStage, Passes, Row, Waiting
from pytest_dnnbench.rank.pipeline.runtime import (
    Batches,
    Completed,
    UpdateObserver,
    right_answers,
)
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.shared_stage import gather, gathered, release, share_out
from pytest_dnnbench.rank.pipeline.stage import Loss
from pytest_dnnbench.rank.pipeline.stage_update import NormLimit, OwnRule
from pytest_dnnbench.rank.pipeline.static_shapes import Form, learnt_forms
from pytest_dnnbench.rank.pipeline.ties import Tie, TiedGradients
from pytest_dnnbench.rank.pipeline.torch_stage import Precision, TorchStage
from pytest_dnnbench.rank.update_rule import optimiser_for, scheduler_for
from pytest_dnnbench.rank.whole import part, parted_like, whole


class TorchRuntime:
    """The stages of this rank at work. All ranks of the job make it, and call the same runs in the
    same order."""

    def __init__(
        self,
        place: Place,
        pipelines: Pipelines,
        stages: Sequence[nn.Module],
        optimiser: Sgd | OwnRule,
        *,
        loss: Loss = cross_entropy,
        clip_norm: float | None = None,
        precision: Precision = nullcontext,
        ties: Sequence[Tie] = (),
        ends: Ends = ONE_EACH,
    ) -> None:
        """`stages` are all stages of the model, alike on every rank; `clip_norm` limits the norm of
        the gradients of all of them together; `ties` are the weights that several of them have;
        `ends` says what minibatches and the model's output are made of.
        Raises PlanError if their number or that of the ranks does not fit the pipelines."""
        _check_numbers(pipelines, len(stages), place)
        self.pipelines = pipelines
        self.device = torch.device(place.device)
        self.place, self.replica = pipelines.layout.place(place.rank)
        self.passes = Passes(self.device)
        self.group, replicas = _groups(pipelines, place)
        self._modules = {
            stage: stages[stage].to(self.device) for stage in pipelines.stages_of(self.place)
        }
        self._torch_stages = _torch_stages(
            self._modules, pipelines, precision, replicas, self.device.type
        )
        self._loss, self._precision, self._ends = loss, precision, ends
        self._waiting = Waiting()
        modules = self._modules.values()
        self._parameters = [
            weight for module in modules for weight in module.parameters() if weight.requires_grad
        ]
        optimisers = [_optimiser(optimiser, module, pipelines.shares_out) for module in modules]
        self._optimisers = [each for each in optimisers if each is not None]
        # Parts of one stage count once each, on all ranks of the job.
        counting = None if pipelines.shares_out else self.group
        self._limit = NormLimit(clip_norm, counting) if clip_norm is not None else None
        self._ties = self._tied(ties, place)
        copies = {id(self._parameter(*copy)) for tie in ties for copy in tie.places[1:]}
        self._counted = [id(parameter) not in copies for parameter in self._parameters]
        self._replicas_mean = _replicas_mean(self._parameters, pipelines, replicas)
        self._observer: UpdateObserver | None = None
        self._training: Any = None
        self._evaluation: Any = None
        self._input_forms: tuple[Form, ...] = ()

    def _parameter(self, stage: int, name: str) -> nn.Parameter | None:
        """A parameter of this rank; None where the stage is another's."""
        module = self._modules.get(stage)
        return module.get_parameter(name) if module is not None else None

    def _tied(self, ties: Sequence[Tie], place: Place) -> list[TiedGradients]:
        """The tied weights that this rank has. All ranks of the job call it."""
        layout, limit, mine = self.pipelines.layout, timedelta(seconds=place.timeout_s), []
        for tie in ties:
            copies = [each for copy in tie.places if (each := self._parameter(*copy)) is not None]
            holders = sorted({self.pipelines.place_of(stage) for stage, _ in tie.places})
            group = None
            for replica in range(self.pipelines.replicas if len(holders) > 1 else 0):
                ranks = [layout.rank(holder, replica) for holder in holders]
                of_replica = dist.new_group(ranks, timeout=limit)
                group = of_replica if place.rank in ranks else group
            if copies and copies[0].requires_grad:
                mine.append(TiedGradients(copies, group))
        return mine

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """The stages of this rank, by number."""
        return self._modules

    @property
    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """Those of this rank's stages, in their order; a stage without weights has none."""
        return [optimiser for optimiser, _ in self._optimisers]

    @property
    def has_first(self) -> bool:
        """Whether this rank takes inputs."""
        return 0 in self._modules

    @property
    def has_last(self) -> bool:
        """Whether this rank takes targets, and sees losses."""
        return self.pipelines.stages - 1 in self._modules

    def observe_updates(self, observer: UpdateObserver) -> None:
        """Lets `observer` see the gradients of each update that the optimisers make, just
        before, whole."""
        self._observer = observer

    def train(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """Trains on `minibatches` microbatches of all replicas, a multiple of those of an update,
        and yields those of this rank, update by update.

        `batches` are this replica's share; they are read where a rank has the first stage, the
        last, or both.
        """
        for module in self._modules.values():
            module.train()
        for step in range(self._steps(minibatches)):
            self.passes.step = step
            self._take(batches)
            if self._training is None:
                self._training = self._schedule(training=True)
            losses: list[torch.Tensor] = []
            self._gather()
            numbers = torch.arange(self.pipelines.microbatches_of_each)
            self._training.step(
                target=numbers if self.has_last else None, losses=losses, return_outputs=False
            )
            self._update()
            yield from self._completed(step, [loss.detach() for loss in losses])

    @torch.no_grad()
    def validate(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """Runs forward passes in evaluation mode. Yields as `train` does, and counts right
        answers."""
        for module in self._modules.values():
            module.eval()
        for step in range(self._steps(minibatches)):
            self.passes.step = step
            self._take(batches)
            if self._evaluation is None:
                self._evaluation = self._schedule(training=False)
            self._gather()
            self._evaluation.step(return_outputs=False)
            release(self._torch_stages.values())
            correct: list[torch.Tensor | None] = []
            losses: list[torch.Tensor] = []
            for number, row in sorted(self._waiting.outputs.items()):
                output = self._ends.output_in_evaluation.tree(row)
                targets = self._waiting.targets[number]
                with self._noting_loss(number):
                    losses.append(self._loss_of(output, targets))
                    correct.append(right_answers(output, targets))
            yield from self._completed(step, losses, correct)

    def close(self) -> None:
        """Nothing is left open: torch has waited for all messages of a step."""

    def _gather(self) -> None:
        """Makes the weights of this rank's stage whole, before a pass is noted. Schedules of
        several stages per rank do so themselves, stage by stage."""
        if self.pipelines.rule.stages_per_rank == 1:
            gather(self._torch_stages.values())

    def _steps(self, minibatches: int) -> int:
        steps, rest = divmod(minibatches, self.pipelines.microbatches)
        assert not rest, "every update has all its microbatches"
        return steps

    def _take(self, batches: Batches) -> None:
        """Lets the microbatches of one update wait for their passes."""
        self._waiting.clear()
        if not (self.has_first or self.has_last):
            return
        for inputs, targets in islice(batches, self.pipelines.microbatches_of_each):
            if self.has_first:
                row = self._ends.inputs.row(inputs)
                self._check_forms(row)
                self._waiting.inputs.append(row)
            if self.has_last:
                self._waiting.targets.append(targets)
                self._waiting.samples.append(self._ends.samples(inputs))

    def _check_forms(self, row: Row) -> None:
        """Raises UsageError for inputs of another shape or type than those before."""
        forms = tuple(map(Form.of, row))
        self._input_forms = self._input_forms or forms
        if forms == self._input_forms:
            return
        first, other = (
            ", ".join(f"{list(form.shape)} of {form.dtype}" for form in each)
            for each in (self._input_forms, forms)
        )
        raise UsageError(
            f"the inputs of a microbatch are {other}, and of the first {first}: messages of torch's"
            " schedules have one size, so let every minibatch have the same shapes, or use"
            " pipedream or pipedream-flush"
        )

    def _completed(
        self,
        step: int,
        losses: Sequence[torch.Tensor],
        correct: Sequence[torch.Tensor | None] = (),
    ) -> Iterator[Completed]:
        replicas = self.pipelines.replicas
        for number in range(self.pipelines.microbatches_of_each):
            minibatch = step * self.pipelines.microbatches + number * replicas + self.replica
            if self.has_last:
                samples = self._waiting.samples[number]
                answers = correct[number] if correct else None
                yield Completed(minibatch, samples, losses[number], answers)
            else:
                yield Completed(minibatch)

    def _update(self) -> None:
        for tie in self._ties:
            tie.add_up()
        if self._replicas_mean is not None:
            # Waits for other replicas: no compute.
            self._replicas_mean.add([parameter.grad for parameter in self._parameters])
            self._set_gradients(self._replicas_mean.take(self.pipelines.replicas))
        if self._limit is not None:
            gradients = [
                None if parameter.grad is None else part(parameter.grad)
                for parameter in self._parameters
            ]
            self._set_gradients(self._limit.clipped(gradients, self.device, self._counted))
        if self._observer is not None:
            self._observer(self._gradients())
        start = self.passes.occupancy.mark()
        for optimiser, scheduler in self._optimisers:
            optimiser.step()
            if scheduler is not None:
                scheduler.step()
        for parameter in self._parameters:
            parameter.grad = None
        self.passes.occupancy.add(self.passes.step, start)

    def _set_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Sets the gradients of this rank: of weights that are shared out, their parts."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else parted_like(parameter, gradient)

    def _gradients(self) -> dict[int, dict[str, torch.Tensor]]:
        return {
            stage: {
                name: whole(parameter.grad)
                for name, parameter in module.named_parameters()
                if parameter.grad is not None
            }
            for stage, module in self._modules.items()
        }

    def _loss_of(self, output: Any, targets: Any) -> torch.Tensor:
        with self._precision():
            return self._loss(output, targets)

    def _noted_loss(self, row: Row, target: torch.Tensor) -> torch.Tensor:
        """The loss as torch's schedule calls it, with what the last stage returned, and with the
        number of the microbatch as its target."""
        number = int(target)
        stage = self._torch_stages[self.pipelines.stages - 1]
        with self._noting_loss(number):
            output, targets = self._ends.output.tree(row), self._waiting.targets[number]
            return stage.loss_for_all(self._loss_of(output, targets))

    def _noting_loss(self, microbatch: int) -> AbstractContextManager[None]:
        return self.passes.noting(self.pipelines.stages - 1, "L", microbatch)

    def _schedule(self, *, training: bool) -> Any:
        """torch's schedule, for microbatches of the size of those that wait."""
        count, rule = self.pipelines.microbatches_of_each, self.pipelines.rule
        forms = self._forms(training)
        examples = [
            tuple(
                form.travelling(self.device) if training and place else form.zeros(self.device)
                for form in crossing
            )
            for place, crossing in enumerate(forms)
        ]
        stages = []
        for number, module in self._torch_stages.items():
            module.entering = forms[number] if training and number else ()
            settings = {
                "input_args": examples[number],
                "output_args": examples[number + 1],
                "group": self.group,
            }
            total, device = self.pipelines.stages, self.device
            stages.append(
                NotedStage(self.passes, self._waiting, module, number, total, device, **settings)
            )
        kind = getattr(pipelining.schedules, rule.torch_class)
        loss = self._noted_loss if training else None
        return kind(stages[0] if rule.stages_per_rank == 1 else stages, count, loss_fn=loss)

    def _forms(self, training: bool) -> list[tuple[Form, ...]]:
        rank_of = self.pipelines.layout.rank
        with gathered(self._torch_stages.values()):
            return learnt_forms(
                self._torch_stages,
                tuple(map(Form.of, self._waiting.inputs[0])) if self.has_first else None,
                self.pipelines.stages,
                lambda stage: rank_of(self.pipelines.place_of(stage), self.replica),
                self.group,
                self.device,
                nullcontext if training else torch.no_grad,
            )


def _check_numbers(pipelines: Pipelines, stages: int, place: Place) -> None:
    """Raises PlanError where the number of stages or of ranks does not fit the pipelines."""
    if stages != pipelines.stages:
        raise PlanError(
            f"the model is cut into {stages} stages, {pipelines.framework} needs {pipelines.stages}"
        )
    needed = pipelines.layout.world_size
    if place.world_size != needed:
        raise PlanError(f"the pipelines take {needed} ranks, there are {place.world_size}")


def _groups(
    pipelines: Pipelines, place: Place
) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]:
    """The group of this rank's pipeline, and that of its replicas. None stands for all ranks, and
    for no replicas."""
    layout, limit = pipelines.layout, timedelta(seconds=place.timeout_s)
    if pipelines.replicas == 1:
        return None, None
    mine: list[dist.ProcessGroup] = []
    # Every rank must take part in making every group, its own or not: that is torch's rule.
    for replica in range(pipelines.replicas):
        ranks = [layout.rank(stage, replica) for stage in range(pipelines.ranks)]
        group = dist.new_group(ranks, timeout=limit)
        mine += [group] if place.rank in ranks else []
    for stage in range(pipelines.ranks):
        ranks = [layout.rank(stage, replica) for replica in range(pipelines.replicas)]
        group = dist.new_group(ranks, timeout=limit)
        mine += [group] if place.rank in ranks else []
    pipeline, replicas = mine
    return pipeline, replicas


def _torch_stages(
    modules: Mapping[int, nn.Module],
    pipelines: Pipelines,
    precision: Precision,
    replicas: dist.ProcessGroup | None,
    device_type: str,
) -> dict[int, TorchStage]:
    """The stages of this rank as torch's schedules run them; replicas may share their weights
    out."""
    stages = {
        number: TorchStage(module, number == pipelines.stages - 1, precision)
        for number, module in modules.items()
    }
    if pipelines.shares_out:
        assert replicas is not None, "a single replica shares with none"
        for number, stage in stages.items():
            share_out(number, stage, replicas, device_type)
    return stages


def _replicas_mean(
    parameters: Sequence[nn.Parameter], pipelines: Pipelines, replicas: dist.ProcessGroup | None
) -> GradientMean | None:
    """The mean of gradients over replicas with copies; None where there are none, and where torch
    averages."""
    if replicas is None or pipelines.shares_out:
        return None
    return GradientMean(parameters, replicas, pipelines.replicas)


def _optimiser(
    rule: Sgd | OwnRule, module: nn.Module, shares_out: bool
) -> tuple[torch.optim.Optimizer, LRScheduler | None] | None:
    """The optimiser of one stage, whose weights may be shared out, and its scheduler; None for a
    stage without weights."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        return None
    if isinstance(rule, OwnRule):
        optimiser = optimiser_for(rule.workload, module, rule.settings)
        fused = rule.settings.fused
    else:
        fused = rule.fused
        optimiser = torch.optim.SGD(
            trained,
            lr=rule.learning_rate,
            momentum=rule.momentum,
            weight_decay=rule.weight_decay,
            fused=fused or None,
        )
    if shares_out and fused:
        optimiser = update_parts(optimiser)
    scheduler = scheduler_for(rule.workload, optimiser) if isinstance(rule, OwnRule) else None
    return optimiser, scheduler
