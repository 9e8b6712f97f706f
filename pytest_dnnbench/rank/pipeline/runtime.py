"""One rank's run through a pipeline: does what the schedule says, with its stage and its links.

Any number of runs may follow each other. A run ends with a drain: every minibatch has come back,
every update is made, and only the newest weights are left. The next run starts from those.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule, Update
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean
from pytest_dnnbench.rank.pipeline.links import Links
from pytest_dnnbench.rank.pipeline.occupancy import Occupancy
from pytest_dnnbench.rank.pipeline.stage import Stage, Tensors

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""Images and labels, in the order in which a replica of the first stage gets them."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A minibatch that this rank is done with; `samples` and `loss` (detached) are known on the
    last stage only.

    `correct` counts the images whose largest logit is the label's: in validation only.
    """

    minibatch: int
    samples: int = 0
    loss: torch.Tensor | None = None
    correct: torch.Tensor | None = None


class Runtime:
    """The stage that this rank runs. All ranks of the pipeline must call the same runs in the same
    order."""

    def __init__(
        self, schedule: Schedule, rank: int, stage: Stage, links: Links, device: torch.device
    ) -> None:
        self.schedule = schedule
        self.rank = rank
        self.stage = stage
        self.links = links
        self.device = device
        self.occupancy = Occupancy(device)
        self._first, self._last = links.stage == 0, links.stage == schedule.layout.last
        self._gradients = GradientMean(
            stage.stash.install(0), links.replicas, schedule.update_size(links.stage)
        )
        self._completed: dict[int, Completed] = {}
        self._base = 0

    def train(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """Trains on so many minibatches of the whole pipeline and yields those that this rank
        completes.

        `batches` are read on the first stage only: this replica's share, of which it takes what it
        needs.
        """
        self.stage.module.train()
        self._base = self.stage.stash.newest
        actions = list(self.schedule.actions(self.rank, minibatches))
        self.links.expect(action for action in actions if not isinstance(action, Update))
        done: Completed | None = None
        for action in actions:
            if done is not None and not isinstance(action, Update):
                yield done
                done = None
            if isinstance(action, Forward):
                self._forward(action, batches)
            elif isinstance(action, Backward):
                done = self._backward(action)
            else:
                self._update(action, minibatches)
        self.stage.stash.install(self.stage.stash.newest)
        if done is not None:
            yield done

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

    def _inputs(self, minibatch: int, batches: Batches) -> tuple[Tensors, torch.Tensor]:
        if self._first:
            images, labels = next(batches)
            return (images,), labels
        *inputs, labels = self.links.take_activations(minibatch)
        return tuple(inputs), labels

    def _backward(self, action: Backward) -> Completed:
        gradients = None if self._last else self.links.take_gradients(action.minibatch)
        start = self.occupancy.mark()
        to_inputs, to_parameters = self.stage.backward(action.minibatch, gradients)
        if not self._first:
            self.links.send_gradients(action.minibatch, to_inputs)
        self._gradients.add(to_parameters)
        self.occupancy.add(action.minibatch, start)
        return self._completed.pop(action.minibatch)

    def _update(self, action: Update, minibatches: int) -> None:
        mean = self._gradients.take(action.minibatches)
        start = self.occupancy.mark()
        self.stage.stash.update(mean, self._base + action.oldest)
        last = min(action.version * self.schedule.update_size(self.links.stage), minibatches) - 1
        self.occupancy.add(last, start)

    def validate(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """Forward passes in evaluation mode, pipelined; yields as `train` does, and counts correct
        answers."""
        self.stage.module.eval()
        replicas = self.schedule.layout.replicas[self.links.stage]
        mine = range(self.links.replica, minibatches, replicas)
        self.links.expect(Forward(minibatch, 0) for minibatch in mine)
        for minibatch in mine:
            inputs, labels = self._inputs(minibatch, batches)
            start = self.occupancy.mark()
            outputs = self.stage.evaluate(inputs)
            self.occupancy.add(minibatch, start)
            if self._last:
                correct = (outputs[0].argmax(1) == labels).sum()
                yield Completed(
                    minibatch, len(labels), self.stage.loss_of(outputs[0], labels), correct
                )
            else:
                self.links.send_activations(minibatch, (*outputs, labels))
                yield Completed(minibatch)

    def close(self) -> None:
        """Ends this rank's transfers, after the last run."""
        self.links.close()
