"""No order of a pipeline's transfers on GPUs waits for ever: the real runtime, in all the orders
that seeds draw, on the hardest GPUs that CUDA allows (interleaving.py)."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import Schedule, default_microbatches
from pytest_dnnbench.rank.pipeline import (
    gradient_mean,
    links,
    run_ahead,
    stage_update,
    transfer,
    turns,
)
from pytest_dnnbench.rank.pipeline.links import Links
from pytest_dnnbench.rank.pipeline.run_ahead import RunAhead
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.stage_update import NormLimit
from tests.pipeline.interleaving import (
    DeadlockError,
    Dist,
    Group,
    Line,
    Mutex,
    Operation,
    World,
    queue_of,
    threading_of,
)

META = torch.device("meta")
SHAPES = [(1, 1), (2, 1), (1, 2), (2, 1, 1), (1, 2, 1), (3, 2), (1, 1, 1, 1)]


class Stage:
    """As pipeline.stage.Stage: each pass is queued on the GPU, and the first ones, whose kernels
    are loaded, wait for all that the GPU has to do."""

    def __init__(self, world: World, last: bool) -> None:
        self._world, self._last = world, last
        self._loaded: set[str] = set()
        self.most_ahead = 0
        self.module = torch.nn.Identity()
        weights = [torch.empty(3, device=META)]
        self.stash = SimpleNamespace(
            newest=0, newest_parameters=weights, install=lambda version: None, update=self._updated
        )

    def _updated(self, gradients: object, oldest: int) -> None:
        self._queue("update")
        self.stash.newest += 1

    def _queue(self, kind: str) -> None:
        world, rank = self._world, self._world.rank
        if kind not in self._loaded:
            self._loaded.add(kind)
            queued = world.queued[rank]
            world.pause("a kernel", lambda: world.finished[rank] >= queued)
        world.queue(Operation(is_pass=kind != "update"))
        self.most_ahead = max(self.most_ahead, world.unfinished_passes())

    def forward(self, minibatch: int, version: int, inputs: Any, labels: Any) -> Any:
        """As there."""
        self._queue("forward")
        return (torch.empty(2, device=META, requires_grad=True),)

    def backward(self, minibatch: int, gradients: Any) -> Any:
        """As there."""
        self._queue("backward")
        return (torch.empty(2, device=META),), (torch.empty(3, device=META),)

    def evaluate(self, inputs: Any) -> Any:
        """As there."""
        self._queue("evaluate")
        return (torch.empty(2, 4, device=META),)

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As there."""
        return logits.sum()


class Job:
    """The ranks of a pipeline, each with the real links, transfers and runtime."""

    def __init__(
        self, schedule: Schedule, seed: int, patch: pytest.MonkeyPatch, *, ordered: bool = True
    ) -> None:
        size = schedule.layout.world_size
        self.world, self.schedule, self._ordered = World(size, seed), schedule, ordered
        world, dist = self.world, Dist(self.world, size)
        self._dist: Any = dist
        self.most_ahead = 0
        groups: dict[int, list[Group]] = {rank: [] for rank in range(size)}

        def group(ranks: list[int], timeout_s: float) -> Group:
            mine = groups[world.rank]
            mine.append(Group(len(mine), tuple(ranks)))
            return mine[-1]

        for module in (transfer, turns, gradient_mean, stage_update):
            patch.setattr(module, "dist", dist)
        for module in (transfer, turns):
            patch.setattr(module, "threading", threading_of(world, lambda: world.rank))
        patch.setattr(transfer, "queue", queue_of(world))
        for module in (transfer, run_ahead):
            patch.setattr(module, "stream_for", lambda device: self._line(world))
        patch.setattr(links, "_group", group)
        patch.setattr(
            links,
            "turns_of",
            lambda rank, *_: turns.RankTurns(rank) if ordered else turns.NO_TURNS,
        )

    def _line(self, world: World) -> Line:
        line = Line(world, world.rank)
        if not self._ordered:  # as it was: a header leaves before its data are computed
            line.reach = lambda mark: None  # type: ignore[method-assign]
        return line

    def run(self, minibatches: int, *, validates: bool = False, clips: bool = False) -> None:
        """Runs all ranks to the end. Raises DeadlockError."""
        for rank in range(self.schedule.layout.world_size):
            self.world.start(
                lambda rank=rank: self._rank(rank, minibatches, validates, clips),  # type: ignore[misc]
                rank,
                "compute",
            )
        self.world.run()

    def _rank(self, rank: int, minibatches: int, validates: bool, clips: bool) -> None:
        schedule = self.schedule
        joined = Links(schedule, rank, META, 1.0)
        stage: Any = Stage(self.world, joined.stage == schedule.layout.last)
        limit = NormLimit(1.0, turns=joined.turns) if clips else None
        runtime = Runtime(schedule, rank, stage, joined, META, limit)
        share = [*range(joined.replica, minibatches, schedule.layout.replicas[joined.stage])]
        for run in (runtime.train, runtime.train, *([runtime.validate] if validates else [])):
            assert [done.minibatch for done in run(batches(), minibatches)] == share
            # As a user's own function may do after a run.
            self._dist.all_reduce(torch.empty(1, device=META))
        runtime.close()
        self.most_ahead = max(self.most_ahead, stage.most_ahead)


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Without end."""
    while True:
        yield torch.empty(2, device=META), torch.empty(2, device=META, dtype=torch.int64)


def schedule_of(variant: str, replicas: tuple[int, ...]) -> Schedule:
    """With the fewest microbatches that it takes."""
    layout = Layout(replicas)
    return Schedule(variant, layout, 1 if variant == "pipedream" else default_microbatches(layout))


@pytest.mark.parametrize("replicas", SHAPES, ids=lambda replicas: "-".join(map(str, replicas)))
@pytest.mark.parametrize("variant", ["pipedream", "pipedream-2bw", "pipedream-flush"])
def test_no_order_of_transfers_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch, variant: str, replicas: tuple[int, ...]
) -> None:
    schedule = schedule_of(variant, replicas)
    clips = variant == "pipedream-flush"
    for seed in range(4):
        job = Job(schedule, seed, monkeypatch)
        job.run(2 * schedule.most_in_flight + 1, validates=seed == 0, clips=clips)


def deadlocks_of(
    patch: pytest.MonkeyPatch, replicas: tuple[int, ...], *, ordered: bool = True
) -> int:
    """In how many of some orders the ranks wait for ever."""
    count = 0
    for seed in range(12):
        job = Job(schedule_of("pipedream", replicas), seed, patch, ordered=ordered)
        try:
            job.run(9)
        except DeadlockError:
            count += 1
    return count


@pytest.mark.parametrize("replicas", [(1, 1), (2, 1)], ids=["1-1", "2-1"])
def test_without_turns_two_ranks_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch, replicas: tuple[int, ...]
) -> None:
    """The order that once was: each rank's receive, or send, is queued before the other's."""
    assert deadlocks_of(monkeypatch, replicas, ordered=False)


@contextmanager
def nothing(*_: object) -> Iterator[None]:
    """In place of a part of the rule."""
    yield


@pytest.mark.parametrize("part", ["the lock", "replicas that wait for each other", "the end"])
def test_every_part_of_the_rule_is_needed(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    if part == "the lock":
        monkeypatch.setattr(Mutex, "acquire", lambda self: None)
        monkeypatch.setattr(transfer, "_AHEAD", 1 << 30)  # a semaphore, which is not meant
    elif part == "the end":
        monkeypatch.setattr(Links, "settle", lambda self: None)
    else:
        monkeypatch.setattr(turns.RankTurns, "together", nothing)
    assert deadlocks_of(monkeypatch, (1, 2, 1))


def test_a_host_is_ahead_of_its_gpu_by_a_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by as many as there are without the bound: memory peaked as high as luck had it."""

    def most_ahead(replicas: tuple[int, ...]) -> int:
        most = 0
        for seed in range(4):
            job = Job(schedule_of("pipedream", replicas), seed, monkeypatch)
            job.run(12, validates=True)
            most = max(most, job.most_ahead)
        return most

    shapes = [(1,), (1, 1), (1, 1, 1, 1)]
    for replicas in shapes:
        assert most_ahead(replicas) == run_ahead.PASSES + 1  # the last is just being queued
    monkeypatch.setattr(RunAhead, "passed", lambda self: None)
    for replicas in shapes:
        assert most_ahead(replicas) > run_ahead.PASSES + 1
