"""One rank's run through a pipeline: it follows the schedule, with its stage and its links.

Any number of runs may follow each other. A run ends with a drain: every minibatch has come back,
every update is made, and only the newest weights are left. The next run starts from those.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule, Update
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.pipeline.ends import ONE_EACH, Ends
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean
from pytest_dnnbench.rank.pipeline.links import Links
from pytest_dnnbench.rank.pipeline.occupancy import Occupancy
from pytest_dnnbench.rank.pipeline.run_ahead import RunAhead
from pytest_dnnbench.rank.pipeline.stage import Stage, Tensors
from pytest_dnnbench.rank.pipeline.stage_update import NormLimit
from pytest_dnnbench.rank.workloads.workload import Batch

Batches = Iterator[Batch]
"""Inputs and targets, in the order in which a replica of the first stage takes them."""


UpdateObserver = Callable[[Mapping[int, Mapping[str, torch.Tensor]]], None]
"""Called with the gradients of one update, by stage and name; they are valid during the call."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A minibatch that this rank has completed.

    `samples` and `loss` (detached) are set on the last stage only.
    `correct` counts the right answers, in the validation of a classifier only.
    """

    minibatch: int
    samples: int = 0
    loss: torch.Tensor | None = None
    correct: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Entering:
    """A minibatch as it comes to a stage: the tensors of its inputs or of the stage before, those
    of its targets, its samples."""

    inputs: Tensors
    targets: Tensors
    samples: int


def right_answers(output: Any, labels: Any) -> torch.Tensor | None:
    """How many rows of logits, (batch, classes), have their largest at the label, (batch,); None
    for any other output."""
    if not (isinstance(output, torch.Tensor) and isinstance(labels, torch.Tensor)):
        return None
    if output.dim() != 2 or labels.dim() != 1 or labels.is_floating_point():
        return None
    return (output.argmax(1) == labels).sum()


def validation_room(schedule: Schedule, stage: int) -> int:
    """The minibatches of validation that a replica of a stage begins before the next stage has
    completed the first: as many as in training, and one more, which is on its way."""
    return schedule.warmup[stage] + 2


class Runtime:
    """The stage of this rank at work. All ranks of the pipeline must call the same runs in the same
    order."""

    def __init__(
        self,
        schedule: Schedule,
        rank: int,
        stage: Stage,
        links: Links,
        device: torch.device,
        limit: NormLimit | None = None,
        ends: Ends = ONE_EACH,
    ) -> None:
        self.schedule = schedule
        self.rank = rank
        self.stage = stage
        self.links = links
        self.device = device
        self.occupancy = Occupancy(device)
        self._ends = ends
        self._ahead = RunAhead(device)
        self._limit = limit
        self._first, self._last = links.stage == 0, links.stage == schedule.layout.last
        self._gradients = GradientMean(
            stage.stash.newest_parameters,
            links.replicas,
            schedule.update_size(links.stage),
            links.turns,
        )
        self._completed: dict[int, Completed] = {}
        # The stash counts versions from its making, a schedule from the start of the run: this is
        # the stash's number of the run's version 0.
        self._base = 0

    @property
    def replica(self) -> int:
        """Which replica of its stage this rank is."""
        return self.links.replica

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """The stages of this rank, by number: one."""
        return {self.links.stage: self.stage.module}

    def observe_updates(self, observer: UpdateObserver) -> None:
        """Lets `observer` see the stage and the gradients of each update that its optimiser
        makes, just before."""
        stash, number = self.stage.stash, self.links.stage
        named = self.stage.module.named_parameters()
        names = [name for name, parameter in named if parameter.requires_grad]
        update = stash.update

        def observed(gradients: Sequence[torch.Tensor | None], oldest: int) -> None:
            pairs = zip(names, gradients, strict=True)
            observer({number: {name: each for name, each in pairs if each is not None}})
            update(gradients, oldest)

        stash.update = observed  # type: ignore[method-assign] # for the runtime of a proof only

    def train(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """Trains on `minibatches` minibatches of the whole pipeline, and yields those that this
        rank completes.

        `batches` are read on the first stage only: this replica's share, of which it takes as many
        as it needs.

            actions      F0@0     F1@0     B0       U1             F2@1     ...      B3       U4
                          │        │        │        │              │                 │        │
            stage        [1]      [1]      [2]      [3]            [1]               [2]      [3]
            held                            0 ────────────┐                           3 ──────────┐
            caller                                       [4] 0                                [5] 3

        [1] takes activations, runs the minibatch with its version, sends activations on.
        [2] takes gradients, runs backward, sends gradients back. The minibatch is complete, but its
            update may come next: it is held back.
        [3] updates the weights, once the replicas have averaged their gradients.
        [4] hands the minibatch to the caller before the next pass. A caller that reads the clock
            here counts the update as part of the minibatch, and the pass that follows not.
        [5] After the last action, leaves the newest weights in the module for its readers, and
            hands over the last minibatch. In the end, nothing is left to be sent.
        """
        self.stage.module.train()
        self._base = self.stage.stash.newest
        actions = list(self.schedule.actions(self.rank, minibatches))
        # Before the first pass: an inbox receives ahead of need, but only what it expects.
        self.links.expect(action for action in actions if not isinstance(action, Update))
        held: Completed | None = None
        for action in actions:
            if held is not None and not isinstance(action, Update):
                yield held  # [4]
                held = None
            if isinstance(action, Forward):
                self._forward(action, batches)  # [1]
            elif isinstance(action, Backward):
                held = self._backward(action)  # [2]
            else:
                self._update(action, minibatches)  # [3]
        self.stage.stash.install(self.stage.stash.newest)  # [5]
        if held is not None:
            yield held
        self.links.settle()

    def _forward(self, action: Forward, batches: Batches) -> None:
        entering = self._entering(action.minibatch, batches)
        targets = self._ends.targets.tree(entering.targets) if self._last else None
        start = self.occupancy.mark()
        outputs = self.stage.forward(
            action.minibatch, self._base + action.version, entering.inputs, targets
        )
        self.occupancy.add(action.minibatch, start)
        if self._last:
            self._completed[action.minibatch] = Completed(
                action.minibatch, entering.samples, outputs[0].detach()
            )
        else:
            self._completed[action.minibatch] = Completed(action.minibatch)
            self._send_on(action.minibatch, outputs, entering)
        self._ahead.passed()

    def _entering(self, minibatch: int, batches: Batches) -> _Entering:
        ends = self._ends
        if self._first:
            inputs, targets = next(batches)
            row, samples = ends.inputs.row(inputs), ends.samples(inputs)
            return _Entering(row, ends.targets.row(targets), samples)
        with marks.mark("bubble", "activations"):
            tensors, samples = self.links.take_activations(minibatch)
        first_target = len(tensors) - len(ends.targets)
        return _Entering(tensors[:first_target], tensors[first_target:], samples)

    def _send_on(self, minibatch: int, outputs: Tensors, entered: _Entering) -> None:
        self.links.send_activations(minibatch, (*outputs, *entered.targets), entered.samples)

    def _backward(self, action: Backward) -> Completed:
        with marks.mark("bubble", "gradients"):
            gradients = None if self._last else self.links.take_gradients(action.minibatch)
        start = self.occupancy.mark()
        to_inputs, to_parameters = self.stage.backward(action.minibatch, gradients)
        if not self._first:
            self.links.send_gradients(action.minibatch, to_inputs)
        self._gradients.add(to_parameters)
        self.occupancy.add(action.minibatch, start)
        self._ahead.passed()
        return self._completed.pop(action.minibatch)

    def _update(self, action: Update, minibatches: int) -> None:
        # `take` may wait for other replicas: the rank idles then, so the compute starts after it.
        mean = self._gradients.take(action.minibatches)
        if self._limit is not None:
            mean = self._limit.clipped(mean, self.device)
        start = self.occupancy.mark()
        with marks.mark("optimizer"):
            self.stage.stash.update(mean, self._base + action.oldest)
        # The update belongs to the last minibatch that it averages.
        last = min(action.version * self.schedule.update_size(self.links.stage), minibatches) - 1
        self.occupancy.add(last, start)

    def validate(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """Runs forward passes in evaluation mode, pipelined. Yields as `train` does, and counts
        right answers.

        A stage is ahead of the next by a bounded number of minibatches (validation_room): before it
        begins another, it waits for the receipt of an earlier one, as it waits for gradients in
        training. Two stages, room for 3; R0 takes the receipt of minibatch 0:

            stage 0    F0 F1 F2 R0 F3 R1 F4 R2 R3 R4
            stage 1       F0 F1    F2    F3 F4
        """
        self.stage.module.eval()
        replicas, stage = self.schedule.layout.replicas[self.links.stage], self.links.stage
        share = range(self.links.replica, minibatches, replicas)
        room = validation_room(self.schedule, stage)
        self.links.expect(Forward(minibatch, 0) for minibatch in share)
        self.links.expect(map(Backward, share))  # where the receipts come from
        for number, minibatch in enumerate(share):
            if not self._last and number >= room:
                with marks.mark("bubble", "receipt"):
                    self.links.take_gradients(share[number - room])
            yield self._evaluate(minibatch, batches)
        if not self._last:
            for minibatch in share[-room:]:
                self.links.take_gradients(minibatch)
        self.links.settle()

    def _evaluate(self, minibatch: int, batches: Batches) -> Completed:
        entering = self._entering(minibatch, batches)
        start = self.occupancy.mark()
        outputs = self.stage.evaluate(entering.inputs)
        self.occupancy.add(minibatch, start)
        if not self._first:
            self.links.send_gradients(minibatch, ())  # the receipt: a message without tensors
        self._ahead.passed()
        if not self._last:
            self._send_on(minibatch, outputs, entering)
            return Completed(minibatch)
        output = self._ends.output_in_evaluation.tree(outputs)
        targets = self._ends.targets.tree(entering.targets)
        loss, correct = self.stage.loss_of(output, targets), right_answers(output, targets)
        return Completed(minibatch, entering.samples, loss, correct)

    def close(self) -> None:
        """Ends this rank's transfers, after the last run."""
        self.links.close()
