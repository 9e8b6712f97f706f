"""The reference of a pipeline (pipeline_reference.py), which one rank runs, as all ranks ask it.

    its holder    reference ─> own stages     others' stages ─> tensor by tensor ─┐
    other ranks                                      own stages, put aside <──────┘

So one process holds a whole reference, and any other no more than its own stages. Messages go
through gloo, on the host.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.pipeline_reference import PipelineBounds, PipelineReference
from pytest_dnnbench.rank.proof.shelf import Shelf
from pytest_dnnbench.rank.workloads.workload import Batch

MadeBatches = Sequence[Callable[[], Batch]]
"""The minibatches of a run, each made when it is called for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The tensors that a stage of a rank should hold, by the stage's names, and how far each may
    be missed."""

    expected: Mapping[str, torch.Tensor]
    bounds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Followed:
    """What the reference holds after a run: losses; by stage, the mean gradients of the first
    update and the newest weights; by stage and replica, buffers."""

    losses: list[float]
    bounds: PipelineBounds
    first_gradients: list[Tensors]
    parameters: list[Tensors]
    buffers: list[list[Tensors]]

    @classmethod
    def of(cls, reference: PipelineReference, losses: list[float]) -> "_Followed":
        """Its tensors themselves: no later run changes them."""
        replicas = reference.schedule.layout.replicas
        stages = range(len(replicas))
        return cls(
            losses,
            reference.bounds(),
            [reference.first_gradients(stage) for stage in stages],
            [reference.parameters(stage) for stage in stages],
            [
                [reference.buffers(stage, replica) for replica in range(replicas[stage])]
                for stage in stages
            ],
        )


class SharedReference:
    """A reference as ranks ask it, of the runs that it has followed, by their number. Every method
    is called on all ranks of the job at the same time.

    `reference` is that of the rank `holder`, with an arithmetic; None on the others. `stages` are
    those of this rank, which is replica `replica` of them.
    """

    def __init__(
        self,
        reference: PipelineReference | None,
        stages: Sequence[int],
        replica: int,
        device: torch.device,
        holder: int = 0,
    ) -> None:
        self._reference = reference
        self._holder = holder
        self._followed: dict[int, _Followed] = {}
        self.runs = 0
        """Followed so far."""
        self._stages = tuple(stages)
        self._replica = replica
        self._device = device

    def run(self, batches: MadeBatches, got: Mapping[int, float]) -> None:
        """Runs the reference over minibatches, which are made where it is held; the pipeline got
        these losses. Other ranks go on at once; for what they ask next, they wait."""
        if self._reference is not None:
            losses = self._reference.run([batch() for batch in batches], got)
            self._followed[self.runs] = _Followed.of(self._reference, losses)
        self.runs += 1

    def give_up(self, run: int) -> None:
        """Keeps nothing of a run any more."""
        self._followed.pop(run, None)

    def losses(self, run: int) -> tuple[list[float], list[float]]:
        """The loss of each minibatch of a run, and how far it may be missed."""
        losses: list[Any] = [None]
        if followed := self._followed.get(run):
            losses = [(followed.losses, followed.bounds.losses)]
        dist.broadcast_object_list(losses, src=self._holder)
        expected, bounds = losses[0]
        return expected, bounds

    @property
    def uncertain_stages(self) -> list[int]:
        """On the holder, the stages of which nothing can be proven; none on the others."""
        return [] if self._reference is None else self._reference.uncertain_stages

    def first_gradients(self) -> dict[int, Answer]:
        """By stage of this rank, the mean gradients of its first update."""

        def of(reference: PipelineReference, followed: _Followed, stage: int, _: int) -> Answer:
            within = reference.named(stage, followed.bounds.first_gradients[stage])
            return Answer(followed.first_gradients[stage], within)

        return self._ask(0, of)

    def parameters(self, run: int) -> dict[int, Answer]:
        """By stage of this rank, the weights after a run."""

        def of(reference: PipelineReference, followed: _Followed, stage: int, _: int) -> Answer:
            within = reference.named(stage, followed.bounds.parameters)
            return Answer(followed.parameters[stage], within)

        return self._ask(run, of)

    def buffers(self, run: int) -> dict[int, Answer]:
        """By stage of this rank, the buffers of its replica after a run."""

        def of(
            reference: PipelineReference, followed: _Followed, stage: int, replica: int
        ) -> Answer:
            within = reference.named(stage, followed.bounds.buffers[stage][replica])
            return Answer(followed.buffers[stage][replica], within)

        return self._ask(run, of)

    def _ask(
        self, run: int, answering: Callable[[PipelineReference, _Followed, int, int], Answer]
    ) -> dict[int, Answer]:
        asked: list[tuple[tuple[int, ...], int]] = [((), 0)] * dist.get_world_size()
        dist.all_gather_object(asked, (self._stages, self._replica))
        if self._reference is None:
            return {stage: _received(self._device, self._holder) for stage in self._stages}
        answer = partial(answering, self._reference, self._followed[run])
        for peer, (stages, replica) in enumerate(asked):
            if peer != dist.get_rank():
                for stage in stages:
                    _send(answer(stage, replica), peer)
        return {stage: answer(stage, self._replica) for stage in self._stages}


def _send(answer: Answer, peer: int) -> None:
    forms = [(name, tuple(each.shape), each.dtype) for name, each in answer.expected.items()]
    dist.send_object_list([forms, dict(answer.bounds)], dst=peer)
    for tensor in answer.expected.values():
        plain = tensor.detach().cpu().resolve_conj().contiguous()
        if plain.numel():
            # As bytes: gloo does not take every type.
            dist.send(plain.reshape(-1).view(torch.uint8), peer)


def _received(device: torch.device, holder: int) -> Answer:
    head: list[Any] = [None, None]
    dist.recv_object_list(head, src=holder)
    forms, bounds = head
    expected = Shelf()
    for name, shape, dtype in forms:
        tensor = torch.empty(shape, dtype=dtype)
        if tensor.numel():
            dist.recv(tensor.reshape(-1).view(torch.uint8), src=holder)
        expected.take(name, tensor.to(device))
    return Answer(expected, bounds)
