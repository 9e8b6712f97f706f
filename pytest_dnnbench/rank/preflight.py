"""The preflight on one rank of each node: the node's yardstick, and the links between the nodes.

    round 1    0 ─ 3   1 ─ 2        Each pair of ranks meets once, in rounds of disjoint pairs, so
    round 2    0 ─ 2   3 ─ 1        that N nodes need N - 1 rounds. The pairs of a round run side
    round 3    0 ─ 1   2 ─ 3        by side, as the links of a collective do.

What is slow is decided in the controller (results/verdicts/preflight.py).
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import LinkSpeed, NodeSpeed, Place
from pytest_dnnbench.rank import gpu_yardstick, rank_phase, yardstick
from pytest_dnnbench.rank.group import membership

YARDSTICKS = 3
_ROUND_TRIPS, _TRANSFERS = 40, 5
_UNTIMED = 5
_TRANSFER_S = 0.03
"""How long a transfer is to take: long beside the latency, which it contains twice."""

_LEAST_BYTES = 1 << 20
_MOST_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def measure(place: Place, links_s: float) -> NodeSpeed:
    """This node's yardstick, seconds of a round, each time; and the links that this rank leads.
    After `links_s` seconds no round of links begins any more."""
    yardsticks = tuple(_yardstick_s(place) for _ in range(YARDSTICKS))
    devices = dict.fromkeys(["cpu", place.device])
    links: list[LinkSpeed] = []
    with membership(place):
        rank_phase.enter("program")
        begun_s = time.monotonic()
        for pairs in rounds(place.world_size):
            if _slowest(time.monotonic() - begun_s) >= links_s:
                break
            for pair in pairs:
                if place.rank in pair:
                    links += [_link(place.rank, pair, torch.device(name)) for name in devices]
    return NodeSpeed(yardsticks, tuple(link for link in links if link.ranks[0] == place.rank))


def _yardstick_s(place: Place) -> float:
    """Of the node's cores or, on GPUs, of the one that this rank has."""
    if not place.device.startswith("cuda"):
        return yardstick.measure(place)
    seconds = gpu_yardstick.measure(place)
    if not seconds:
        raise UsageError(
            f"{place.device} of node {place.node} has no memory left for a yardstick: end what else"
            " uses it, or leave the preflight out (--dnn-preflight off)"
        )
    return seconds


def rounds(ranks: int) -> Iterator[list[tuple[int, int]]]:
    """Every pair of ranks once, the lower one first, in rounds of disjoint pairs: the circle method
    of tournaments, in which one stands still and the others move on by a place. Of an odd number of
    ranks one rests in each round."""
    circle = list(range(ranks + ranks % 2))
    half = len(circle) // 2
    for _ in range(len(circle) - 1):
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        yield [(min(pair), max(pair)) for pair in pairs if max(pair) < ranks]
        circle = [circle[0], circle[-1], *circle[1:-1]]


def _slowest(seconds: float) -> float:
    """The largest figure of all ranks, so that all of them decide alike."""
    value = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return float(value)


def _link(rank: int, pair: tuple[int, int], device: torch.device) -> LinkSpeed:
    """The link of a pair of ranks. The first of them times, and answers with what it timed."""
    leads = rank == pair[0]
    peer = pair[1] if leads else pair[0]
    word = torch.zeros(1, dtype=torch.int64, device=device)

    def forth(values: torch.Tensor) -> None:
        """From the first rank to the second, which answers with a word."""
        _pass(values, peer, gives=leads)
        _pass(word, peer, gives=not leads)

    def back(values: torch.Tensor) -> None:
        """From the second to the first, which asks for it with a word."""
        _pass(word, peer, gives=leads)
        _pass(values, peer, gives=not leads)

    round_trip_s = _typical_s(lambda: forth(word), _ROUND_TRIPS, device)
    probe = torch.zeros(_LEAST_BYTES, dtype=torch.uint8, device=device)
    probe_s = _typical_s(lambda: forth(probe), 1, device)
    word[0] = _size(_LEAST_BYTES / probe_s, device)
    _pass(word, peer, gives=leads)  # the timing rank decides for both
    values = torch.zeros(int(word[0]), dtype=torch.uint8, device=device)
    forth_s = _typical_s(lambda: forth(values), _TRANSFERS, device)
    back_s = _typical_s(lambda: back(values), _TRANSFERS, device)
    return LinkSpeed(
        ranks=pair,
        backend=_BACKENDS[device.type],
        size_bytes=len(values),
        forth_bytes_s=len(values) / forth_s,
        back_bytes_s=len(values) / back_s,
        latency_s=round_trip_s / 2,
    )


def _pass(values: torch.Tensor, peer: int, *, gives: bool) -> None:
    if gives:
        dist.send(values, peer)
    else:
        dist.recv(values, peer)


def _size(bytes_s: float, device: torch.device) -> int:
    """Bytes of a transfer that takes _TRANSFER_S, within bounds."""
    return int(max(_LEAST_BYTES, min(_MOST_BYTES[device.type], bytes_s * _TRANSFER_S)))


def _typical_s(work: Callable[[], None], times: int, device: torch.device) -> float:
    """The median seconds of an exchange, after some that are not timed: the first makes the
    connection."""
    seconds = []
    for number in range(-min(_UNTIMED, times), times):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
