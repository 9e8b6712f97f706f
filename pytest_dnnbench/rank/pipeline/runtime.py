"""One rank's run through a pipeline: it follows the schedule, with its stage and its links.

Any number of runs may follow each other. A run ends with a drain: every minibatch has come back,
every update is made, and only the newest weights are left. The next run starts from those.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule, Update
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean
from pytest_dnnbench.rank.pipeline.links import Links
from pytest_dnnbench.rank.pipeline.occupancy import Occupancy
from pytest_dnnbench.rank.pipeline.run_ahead import RunAhead
from pytest_dnnbench.rank.pipeline.stage import Stage, Tensors
from pytest_dnnbench.rank.pipeline.stage_update import NormLimit

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Images and labels, in the order in which a replica of the first stage takes them."""


UpdateObserver = Callable[[Mapping[int, Mapping[str, torch.Tensor]]], None]
"""Called with the gradients of one update, by stage and name; they are valid during the call."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A minibatch that this rank has completed.

    `samples` (the length of its labels) and `loss` (detached) are set on the last stage only.
    `correct` counts the right answers, in the validation of a classifier only.
    """

    minibatch: int
    samples: int = 0
    loss: torch.Tensor | None = None
    correct: torch.Tensor | None = None


def right_answers(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
    """How many rows of logits, (batch, classes), have their largest at the label, (batch,); None
    for any other output."""
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
    ) -> None:
        self.schedule = schedule
        self.rank = rank
        self.stage = stage
        self.links = links
        self.device = device
        self.occupancy = Occupancy(device)
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
        inputs, labels = self._inputs(action.minibatch, batches)
        start = self.occupancy.mark()
        outputs = self.stage.forward(action.minibatch, self._base + action.version, inputs, labels)
        self.occupancy.add(action.minibatch, start)
        if self._last:
            self._completed[action.minibatch] = Completed(
                action.minibatch, len(labels), outputs[0].detach()
            )
        else:
            self._completed[action.minibatch] = Completed(action.minibatch)
            self.links.send_activations(action.minibatch, (*outputs, labels))
        self._ahead.passed()

    def _inputs(self, minibatch: int, batches: Batches) -> tuple[Tensors, torch.Tensor]:
        if self._first:
            images, labels = next(batches)
            return (images,), labels
        with marks.mark("bubble", "activations"):
            *inputs, labels = self.links.take_activations(minibatch)
        return tuple(inputs), labels

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
        inputs, labels = self._inputs(minibatch, batches)
        start = self.occupancy.mark()
        outputs = self.stage.evaluate(inputs)
        self.occupancy.add(minibatch, start)
        if not self._first:
            self.links.send_gradients(minibatch, ())  # the receipt: a message without tensors
        self._ahead.passed()
        if not self._last:
            self.links.send_activations(minibatch, (*outputs, labels))
            return Completed(minibatch)
        correct = right_answers(outputs[0], labels)
        return Completed(minibatch, len(labels), self.stage.loss_of(outputs[0], labels), correct)

    def close(self) -> None:
        """Ends this rank's transfers, after the last run."""
        self.links.close()
