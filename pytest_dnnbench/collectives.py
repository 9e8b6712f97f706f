"""Collectives and their bandwidths, as nccl-tests defines them
(https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md). A leaf.

    algorithm bandwidth    size / time
    bus bandwidth          algorithm bandwidth x factor: what a link must carry for it, so that
                           figures of different numbers of ranks compare

What the size of a collective is, is said there too: of an all-gather the bytes that a rank holds
afterwards, of a reduce-scatter those that it gives.
"""

from collections.abc import Callable

from pytest_dnnbench.errors import UsageError

_FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_gather": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter": lambda ranks: (ranks - 1) / ranks,
    "all_to_all": lambda ranks: (ranks - 1) / ranks,
    "broadcast": lambda ranks: 1.0,
    "reduce": lambda ranks: 1.0,
    "send_recv": lambda ranks: 1.0,
}

COLLECTIVES = tuple(_FACTORS)


def bus_factor(collective: str, ranks: int) -> float:
    """Bytes that each link carries for a byte of a collective's size. Raises UsageError for an
    unknown collective."""
    try:
        return _FACTORS[collective](ranks)
    except KeyError:
        raise UsageError(
            f"collective {collective!r} is unknown: choose from {', '.join(COLLECTIVES)}"
        ) from None
