"""The programs that tests run on pipeline ranks: top-level functions, imported there by name."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from pytest_dnnbench.messages import PipelineRequest, Place
from pytest_dnnbench.rank.pipeline import links, stage_ranks
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.turns import RankTurns


def call_in_turns(
    place: Place, request: PipelineRequest, target: tuple[str, str, str | None], *arguments: Any
) -> Any:
    """As stage_ranks.call, with the turns that ranks on GPUs have."""
    vars(links)["turns_of"] = lambda rank, *_: RankTurns(rank)  # in this process, which then ends
    return stage_ranks.call(place, request, target, *arguments)


def vectors(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches for the chains."""
    for index in range(count):
        yield torch.full((2, 6), float(index)), torch.zeros(2, dtype=torch.int64)


def order(runtime: Runtime, minibatches: int) -> list[int]:
    """The minibatches that a rank completes, in that order."""
    return [done.minibatch for done in runtime.train(vectors(minibatches), minibatches)]


def evaluated(runtime: Runtime, minibatches: int) -> tuple[list[int], bool]:
    """The minibatches that a rank validates, and whether its module is in training mode then."""
    validated = [done.minibatch for done in runtime.validate(vectors(minibatches), minibatches)]
    return validated, runtime.stage.module.training


def stamped(runtime: Runtime, minibatches: int, slow_s: float) -> list[float]:
    """When this rank had completed each of its minibatches of a validation; the last stage takes
    `slow_s` longer for each."""
    stamps = []
    for _ in runtime.validate(vectors(minibatches), minibatches):
        stamps.append(time.monotonic())
        if runtime.links.stage == runtime.schedule.layout.last:
            time.sleep(slow_s)
    return stamps


def validated_twice(runtime: Runtime, minibatches: int) -> list[int]:
    """The minibatches of two validations with a training between them."""
    validated = [done.minibatch for done in runtime.validate(vectors(minibatches), minibatches)]
    trained = order(runtime, minibatches)
    again = [done.minibatch for done in runtime.validate(vectors(minibatches), minibatches)]
    return validated + trained + again


def die_in_the_middle(runtime: Runtime, rank: int, how: str) -> None:
    """One rank dies or raises after two minibatches; the others go on."""
    for done in runtime.train(vectors(50), 50):
        if runtime.rank == rank and done.minibatch >= 2:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("planted")


def outlive_a_peer(runtime: Runtime) -> str:
    """Rank 1 leaves without a word; rank 0 says what it saw, and how many threads keep it from
    ending."""
    connected = torch.zeros(1)
    if runtime.rank == 1:
        dist.recv(connected, 0)
        os._exit(0)
    dist.send(connected, 1)
    start = time.monotonic()
    try:
        order(runtime, 20)
    except ConnectionError as failure:
        blocking = [thread.name for thread in threading.enumerate() if not thread.daemon]
        raise ValueError(f"{failure} | {blocking} | {time.monotonic() - start:.1f} s") from failure
    return "nothing happened"
