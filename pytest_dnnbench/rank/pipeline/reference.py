"""The reference of a pipeline: what it computes, in one process and in plain order.

Minibatch t of a run passes all stages, with the version of each stage's weights that the rule names
(written out here once more, apart from the schedule). A stage keeps its gradient, and steps when it
has the gradients of one update. Nothing runs ahead, nothing is in flight. Rules, with R replicas
and w warm-up forwards of a stage, m microbatches per update, and versions counted from 0 at the
start of the run:

    pipedream         version max(t div R - w, 0), R minibatches per update; with n stages and
                      R = 1 that is
                      w_s(t+1) = w_s(t) - lr * d/dw_s f_t(w_0(t-n+1), w_1(t-n+2), ..., w_{n-1}(t))
    vertical sync     the newest version made of no minibatch later than those in the version of
                      the first stage
    pipedream-2bw     version max(t div m - 1, 0), m minibatches per update
    pipedream-flush   version t div m, m minibatches per update: gradient accumulation

Sources: those of planner/schedule.py. Weight decay and momentum act on the newest weights.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.stage import Loss, Tensors
from pytest_dnnbench.rank.pipeline.stash import Sgd

Named = dict[str, torch.Tensor]


def weights_met(schedule: Schedule, stage: int, minibatch: int) -> int:
    """The version of a stage's weights that a minibatch of a run meets, by the rule."""
    replicas, m = schedule.layout.replicas, schedule.microbatches
    if schedule.variant == "pipedream-flush":
        return minibatch // m
    if schedule.variant == "pipedream-2bw":
        return max(minibatch // m - 1, 0)
    if not schedule.vertical_sync:
        return max(minibatch // replicas[stage] - schedule.warmup[stage], 0)
    minibatches_in_first_stage = replicas[0] * max(minibatch // replicas[0] - schedule.warmup[0], 0)
    version = 0
    while (version + 1) * replicas[stage] <= minibatches_in_first_stage:
        version += 1
    return version


@dataclass
class _StageState:
    """A stage in the reference: its weights by version, newest last; the buffers of each replica;
    the momentum; the gradients of the next update."""

    module: nn.Module
    weights: list[Named]
    buffers: list[Named]
    velocity: Named
    pending: list[Named]

    def step(self, optimiser: Sgd) -> None:
        newest, count, following = self.weights[-1], len(self.pending), {}
        for name, weight in newest.items():
            gradient = sum((each[name] for each in self.pending), torch.zeros_like(weight)) / count
            change = gradient + optimiser.weight_decay * weight
            self.velocity[name] = optimiser.momentum * self.velocity[name] + change
            following[name] = (weight - optimiser.learning_rate * self.velocity[name]).detach()
        self.weights.append(following)
        self.pending = []


class PipelineReference:
    """The state of the stages under the rule. It copies `stages` and does not change them."""

    def __init__(
        self, stages: Sequence[nn.Module], schedule: Schedule, optimiser: Sgd, loss: Loss
    ) -> None:
        self.schedule = schedule
        self.optimiser = optimiser
        self.loss = loss
        self.states = [
            self._state(copy.deepcopy(stage), replicas)
            for stage, replicas in zip(stages, schedule.layout.replicas, strict=True)
        ]

    @staticmethod
    def _state(module: nn.Module, replicas: int) -> _StageState:
        weights = {name: weight.detach() for name, weight in module.named_parameters()}
        buffers = [
            {name: buffer.clone() for name, buffer in module.named_buffers()}
            for _ in range(replicas)
        ]
        zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        return _StageState(module.train(), [weights], buffers, zeros, [])

    def run(self, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
        """One run over minibatches, from the newest weights; the loss of each."""
        for state in self.states:
            del state.weights[:-1]
        losses = []
        for minibatch, (images, labels) in enumerate(batches):
            losses.append(self._pass(minibatch, images, labels))
            for number, state in enumerate(self.states):
                if len(state.pending) == self._update_size(number) or minibatch == len(batches) - 1:
                    state.step(self.optimiser)
                # No later minibatch meets these versions. They keep their number and give up their
                # memory.
                for old in range(weights_met(self.schedule, number, minibatch + 1)):
                    state.weights[old].clear()
        return losses

    def _update_size(self, stage: int) -> int:
        pipedream = self.schedule.variant == "pipedream"
        return self.schedule.layout.replicas[stage] if pipedream else self.schedule.microbatches

    def _pass(self, minibatch: int, images: torch.Tensor, labels: torch.Tensor) -> float:
        values: Tensors = (images,)
        used: list[Named] = []
        for number, state in enumerate(self.states):
            version = state.weights[weights_met(self.schedule, number, minibatch)]
            used.append(
                {name: weight.detach().requires_grad_() for name, weight in version.items()}
            )
            buffers = state.buffers[minibatch % len(state.buffers)]
            values = functional_call(state.module, {**used[-1], **buffers}, values)
        loss = self.loss(values[0], labels)
        flat = [weight for weights in used for weight in weights.values()]
        gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
        for state, weights in zip(self.states, used, strict=True):
            state.pending.append({name: next(gradients) for name in weights})
        return float(loss.detach())

    def parameters(self, stage: int) -> Named:
        """The newest weights of a stage."""
        return self.states[stage].weights[-1]

    def buffers(self, stage: int, replica: int) -> Named:
        """The buffers of one replica of a stage: batch normalisation updates its statistics in the
        order of the replica's forwards."""
        return self.states[stage].buffers[replica]
