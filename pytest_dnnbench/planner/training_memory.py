"""The bytes of a rank that trains, from a profile: weights, gradients, the optimiser's state and
activations. An upper bound of what frameworks allocate for them, because a profile counts the
results of operators that work in place; without the data and an allocator's own.

Not here: stages of PipeDream, which keep several versions (memory.py).
"""

from collections.abc import Collection

from pytest_dnnbench.planner.memory import COPIES_BESIDE_WEIGHTS
from pytest_dnnbench.planner.profile import Profile, number_in
from pytest_dnnbench.planner.sharded import units_of


def weight_bytes(profile: Profile) -> float:
    """Of all operators."""
    return sum(operator.parameter_bytes for operator in profile.operators)


def held_bytes(profile: Profile, weights: float) -> float:
    """Of so many bytes of weights, their gradients, and their part of the optimiser's state: of
    the profile's, or of a momentum."""
    in_all = weight_bytes(profile)
    state = number_in(profile, "optimiser_bytes") if "optimiser_bytes" in profile.metadata else None
    share = (COPIES_BESIDE_WEIGHTS - 1) if state is None or not in_all else state / in_all
    return (2 + share) * weights


def alone_bytes(profile: Profile) -> float:
    """Of one rank that trains alone."""
    return held_bytes(profile, weight_bytes(profile)) + _activation_bytes(profile)


def data_parallel_bytes(profile: Profile, *, buckets: bool = True) -> float:
    """Of a rank of ddp; its `buckets` are a second copy of the gradients unless they are views."""
    return alone_bytes(profile) + (weight_bytes(profile) if buckets else 0.0)


def sharded_bytes(profile: Profile, ranks: int, *, resharded: bool = True) -> float:
    """Of a rank of fsdp: its part of weights, gradients and state; all activations; the root, the
    weights of two blocks (one runs, one is gathered), or those of all blocks that are not
    `resharded`; and the gradients of one."""
    if ranks == 1:
        return alone_bytes(profile)
    units = units_of(profile)
    whole = units.root_bytes + 2 * units.largest_bytes if resharded else weight_bytes(profile)
    held = held_bytes(profile, weight_bytes(profile)) / ranks
    return held + _activation_bytes(profile) + whole + units.largest_bytes


def tensor_parallel_bytes(profile: Profile, held: float) -> float:
    """Of a rank of tp that holds this share of the weights; all activations, as if those within
    split layers were whole too."""
    return held_bytes(profile, held * weight_bytes(profile)) + _activation_bytes(profile)


def stage_bytes(
    profile: Profile, operators: Collection[str], weights: float, entering: float, kept: int
) -> float:
    """Of a stage that keeps the activations and the inputs (`entering` bytes) of so many
    microbatches."""
    inside = set(operators)
    activations = sum(
        operator.activation_bytes for operator in profile.operators if operator.id in inside
    )
    return held_bytes(profile, weights) + kept * (activations + entering)


def _activation_bytes(profile: Profile) -> float:
    return sum(operator.activation_bytes for operator in profile.operators)
