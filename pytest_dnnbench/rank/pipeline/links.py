"""The links of one rank to the ranks of the adjoining stages, and the group of its stage's
replicas."""

from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist

from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule
from pytest_dnnbench.rank.pipeline.stage import Tensors
from pytest_dnnbench.rank.pipeline.transfer import Alarm, Inbox, Outbox
from pytest_dnnbench.rank.pipeline.turns import turns_of

_CLOSE_S = 10.0


class Links:
    """Inboxes and outboxes of one rank.

    All ranks of the default process group must make their links at the same time, in the same
    order. Activations of minibatch b come from the rank that ran it in the stage before, and go to
    the rank that runs it in the stage after; gradients go the other way. `replicas` is the group of
    this stage's replicas, None for a single one.
    """

    def __init__(
        self, schedule: Schedule, rank: int, device: torch.device, timeout_s: float
    ) -> None:
        self.layout = schedule.layout
        self.stage, self.replica = self.layout.place(rank)
        self.turns = turns_of(rank, len(self.layout.replicas), device)
        self.replicas: dist.ProcessGroup | None = None
        self._inboxes: dict[int, Inbox] = {}
        self._outboxes: dict[int, Outbox] = {}
        # Room for the minibatches that a rank can have in flight.
        alarm, room = Alarm(), max(schedule.warmup) + 2
        # Every rank must take part in making every group, its own or not: that is torch's rule.
        for pair in self.layout.links():
            for source, target in (pair, pair[::-1]):
                group = _group([source, target], timeout_s)
                if rank == source:
                    self._outboxes[target] = Outbox(target, group, device, alarm, room, self.turns)
                elif rank == target:
                    self._inboxes[source] = Inbox(source, group, device, alarm, self.turns)
        for stage, replicas in enumerate(self.layout.replicas):
            if replicas > 1:
                group = _group(
                    [self.layout.rank(stage, replica) for replica in range(replicas)], timeout_s
                )
                if stage == self.stage:
                    self.replicas = group

    def expect(self, actions: Iterable[Forward | Backward]) -> None:
        """Announces the messages that these passes need."""
        for action in actions:
            step = -1 if isinstance(action, Forward) else 1
            if 0 <= self.stage + step <= self.layout.last:
                self._inboxes[self.layout.route(self.stage + step, action.minibatch)].expect(1)

    def take_activations(self, minibatch: int) -> tuple[Tensors, int]:
        """The tensors of a minibatch from the stage before, targets last, and its samples."""
        return self._inboxes[self.layout.route(self.stage - 1, minibatch)].take()

    def take_gradients(self, minibatch: int) -> Tensors:
        """The gradients of a minibatch from the stage after."""
        return self._inboxes[self.layout.route(self.stage + 1, minibatch)].take()[0]

    def send_activations(self, minibatch: int, tensors: Tensors, samples: int) -> None:
        """Sends a minibatch of so many samples to the stage after."""
        self._outboxes[self.layout.route(self.stage + 1, minibatch)].send(tensors, samples)

    def send_gradients(self, minibatch: int, tensors: Tensors) -> None:
        """Sends the gradients of a minibatch's activations back to the stage before."""
        self._outboxes[self.layout.route(self.stage - 1, minibatch)].send(tensors)

    def settle(self) -> None:
        """Waits until all messages sent so far are on their way: whatever a rank queues after that
        comes after them."""
        for outbox in self._outboxes.values():
            outbox.settle()

    def close(self) -> None:
        """Ends the threads, after all queued messages are sent and all expected ones received."""
        for outbox in self._outboxes.values():
            outbox.close(_CLOSE_S)
        for inbox in self._inboxes.values():
            inbox.close(_CLOSE_S)


def _group(ranks: list[int], timeout_s: float) -> dist.ProcessGroup:
    group = dist.new_group(ranks, timeout=timedelta(seconds=timeout_s))
    assert group is not None
    return group  # type: ignore[no-any-return] # torch's gap
