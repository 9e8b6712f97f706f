"""Threads that go on as a seed says, and ranks whose GPUs run what is queued in one queue each.

The real code of a pipeline runs in real threads, one at a time: each thread stops wherever it could
wait or touch a GPU, and the next one is drawn. What can never go on is then seen, not timed. A GPU
here is the hardest one that CUDA allows: all streams of a rank share one queue, sends and receives
wait for each other on it, and the first call for a pair of GPUs keeps its host until both call.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch


class DeadlockError(Exception):
    """Nobody can go on. Says who waits for what."""


class _Abandoned(BaseException):
    """Ends the threads of a run that is over."""


@dataclass(eq=False)
class Task:
    """A thread, and what it waits for."""

    name: str
    rank: int
    priority: float
    waits: str = ""
    may_go: Callable[[], bool] = lambda: True
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    failure: BaseException | None = None
    ended: bool = False


@dataclass(eq=False)
class Operation:
    """What is queued on a GPU: compute, which always runs, or a part of what several ranks do
    together (`key`), which runs once all `parts` are first in their queues. `is_pass` says which
    compute is a forward or a backward pass."""

    key: object = None
    parts: int = 1
    is_pass: bool = False


class World:
    """The ranks of one job, their threads and their GPUs. `seed` decides who goes next: at random,
    or by priorities that change now and then, which lets one thread fall far behind."""

    def __init__(self, ranks: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.by_priority = bool(seed % 2)
        self.lazy_gpus = seed % 3 == 2
        self.queues = [deque[Operation]() for _ in range(ranks)]
        self.finished = [0] * ranks
        self.queued = [0] * ranks
        self._tasks: list[Task] = []
        self._back = threading.Semaphore(0)
        self._local = threading.local()
        self._over = False

    @property
    def rank(self) -> int:
        """That of the thread that asks."""
        return self._task.rank

    @property
    def _task(self) -> Task:
        task: Task = self._local.task
        return task

    def start(self, function: Callable[[], object], rank: int, name: str) -> Task:
        """A new thread of a rank."""
        task = Task(name, rank, self.random.random())
        self._tasks.append(task)

        def body() -> None:
            self._local.task = task
            try:
                self._wait_for_go(task)
                function()
            except _Abandoned:
                pass
            except BaseException as failure:
                task.failure = failure
            task.ended = True
            self._back.release()

        threading.Thread(target=body, name=f"rank {rank}: {name}", daemon=True).start()
        return task

    def pause(self, what: str, until: Callable[[], bool] = lambda: True) -> None:
        """Lets others go, and this thread only when `until` is true."""
        task = self._task
        task.waits, task.may_go = what, until
        self._back.release()
        self._wait_for_go(task)

    def _wait_for_go(self, task: Task) -> None:
        task.go.acquire()
        if self._over:
            raise _Abandoned

    def run(self) -> None:
        """Runs all threads to their end. Raises DeadlockError, or what a thread has raised."""
        try:
            while waiting := [task for task in self._tasks if not task.ended]:
                ready = [task for task in waiting if task.may_go()]
                gpus = self._ready_gpus()
                if not ready and not gpus:
                    raise DeadlockError(self._state(waiting))
                self._step(ready, gpus)
                for task in self._tasks:
                    if task.failure is not None:
                        raise task.failure
        finally:
            self._abandon()

    def _step(self, ready: list[Task], gpus: list[int]) -> None:
        """One thread goes as far as its next pause, or one GPU finishes what is first."""
        if gpus and (not ready or self.random.random() < (0.05 if self.lazy_gpus else 0.4)):
            self._finish(self.random.choice(gpus))
            return
        if self.by_priority and self.random.random() < 0.05:
            self.random.choice(ready).priority = self.random.random()
        task = (
            max(ready, key=lambda each: each.priority)
            if self.by_priority
            else self.random.choice(ready)
        )
        task.go.release()
        self._back.acquire()

    def queue(self, operation: Operation) -> None:
        """Queues on the GPU of this thread's rank."""
        self.queues[self.rank].append(operation)
        self.queued[self.rank] += 1

    def unfinished_passes(self) -> int:
        """Of this thread's rank."""
        return sum(operation.is_pass for operation in self.queues[self.rank])

    def _ready_gpus(self) -> list[int]:
        first: dict[object, int] = {}
        for queue in self.queues:
            if queue and queue[0].key is not None:
                first[queue[0].key] = first.get(queue[0].key, 0) + 1
        return [
            rank
            for rank, queue in enumerate(self.queues)
            if queue and (queue[0].key is None or first[queue[0].key] == queue[0].parts)
        ]

    def _finish(self, rank: int) -> None:
        key = self.queues[rank][0].key
        for other, queue in enumerate(self.queues):
            if other == rank or (key is not None and queue and queue[0].key == key):
                queue.popleft()
                self.finished[other] += 1

    def _state(self, waiting: Sequence[Task]) -> str:
        lines = [f"rank {task.rank}, {task.name}: {task.waits}" for task in waiting]
        lines += [
            f"GPU of rank {rank}: {[operation.key for operation in queue]}"
            for rank, queue in enumerate(self.queues)
        ]
        return "\n".join(lines)

    def _abandon(self) -> None:
        self._over = True
        for task in self._tasks:
            if not task.ended:
                task.go.release()
                self._back.acquire()


class Mutex:
    """As threading.Lock and threading.Semaphore."""

    def __init__(self, world: World, room: int = 1) -> None:
        self._world, self._room = world, room

    def acquire(self) -> None:
        """Waits for it."""
        self._world.pause("a lock", lambda: self._room > 0)
        self._room -= 1

    def release(self) -> None:
        """Gives it up."""
        self._room += 1

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Queue:
    """As queue.Queue and queue.SimpleQueue."""

    def __init__(self, world: World, room: int = 0) -> None:
        self._world, self._room = world, room
        self._items: deque[Any] = deque()

    def put(self, item: object) -> None:
        """Waits for room."""
        self._world.pause("room", lambda: not self._room or len(self._items) < self._room)
        self._items.append(item)

    def get(self) -> Any:
        """Waits for an item."""
        self._world.pause("an item", lambda: bool(self._items))
        return self._items.popleft()


@dataclass(frozen=True)
class Group:
    """A process group."""

    number: int
    ranks: tuple[int, ...]


class Dist:
    """As torch.distributed. Tensors without memory ("meta") are those on GPUs: their calls queue.
    The others are between hosts, where a send waits for its receive, as gloo's may."""

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self, world: World, ranks: int) -> None:
        self._world = world
        self._all = Group(-1, tuple(range(ranks)))
        self._letters: dict[object, deque[list[torch.Tensor]]] = {}
        self._counts: dict[object, int] = {}
        self._connected: dict[object, set[int]] = {}

    def send(self, tensor: torch.Tensor, peer: int, group: Group | None) -> None:
        """As there."""
        way = (group or self._all, self._world.rank, peer)
        if tensor.is_meta:
            self._queue(way, 2)
            return
        letter = [tensor.clone()]
        self._letters.setdefault(way, deque()).append(letter)
        self._world.pause(f"send to {peer}", lambda: not letter)

    def recv(self, tensor: torch.Tensor, peer: int, group: Group | None) -> None:
        """As there."""
        way = (group or self._all, peer, self._world.rank)
        if tensor.is_meta:
            self._queue(way, 2)
            return
        letters = self._letters.setdefault(way, deque())
        self._world.pause(f"receive from {peer}", lambda: bool(letters))
        tensor.copy_(letters.popleft().pop())

    def all_reduce(self, tensor: torch.Tensor, *_: object, group: Group | None = None) -> None:
        """As there."""
        chosen = group or self._all
        if tensor.is_meta:
            self._queue(chosen, len(chosen.ranks))
            return
        number = self._count((chosen, "hosts"))
        self._world.pause(
            "other hosts",
            lambda: all(self._counts.get((chosen, "hosts", r), 0) > number for r in chosen.ranks),
        )

    def get_process_group_ranks(self, group: Group | None) -> list[int]:
        """As there."""
        return list((group or self._all).ranks)

    def _queue(self, way: object, parts: int) -> None:
        self._world.pause("to queue")
        callers = self._connected.setdefault(way, set())
        callers.add(self._world.rank)
        self._world.pause(f"the connection {way}", lambda: len(callers) == parts)
        self._world.queue(Operation((way, self._count((way, "GPUs"))), parts))

    def _count(self, what: tuple[object, ...]) -> int:
        """How many such calls this rank has made before."""
        key = (*what, self._world.rank)
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key] - 1


class Line:
    """As pipeline.stream.Stream, in the one queue of a rank's GPU."""

    def __init__(self, world: World, rank: int) -> None:
        self._world, self._rank = world, rank

    def begin_thread(self) -> None:
        """As there."""

    def running(self) -> AbstractContextManager[object]:
        """As there."""
        return nullcontext()

    def mark(self) -> int:
        """As there."""
        return self._world.queued[self._rank]

    def reach(self, mark: int) -> None:
        """As there."""
        self._world.pause("the GPU", lambda: self._world.finished[self._rank] >= mark)

    def follow(self, mark: int, tensors: Sequence[torch.Tensor]) -> None:
        """As there: in one queue, what comes later waits anyway."""


def threading_of(world: World, rank_of: Callable[[], int]) -> SimpleNamespace:
    """As the module threading."""

    class Thread:
        def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
            assert daemon
            self._target, self._name = target, name

        def start(self) -> None:
            self._task = world.start(self._target, rank_of(), self._name)

        def join(self, timeout_s: float) -> None:
            world.pause("a thread", lambda: self._task.ended)

    return SimpleNamespace(
        Thread=Thread, Lock=lambda: Mutex(world), Semaphore=lambda room: Mutex(world, room)
    )


def queue_of(world: World) -> SimpleNamespace:
    """As the module queue."""
    return SimpleNamespace(Queue=lambda room: Queue(world, room), SimpleQueue=lambda: Queue(world))
