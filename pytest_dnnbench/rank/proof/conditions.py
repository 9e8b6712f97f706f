"""The conditions under which a rank is proven: deterministic kernels, and memory for what the proof
holds. Where there is too little, the case is refused before the kernel ends anything.

What a proof holds at most, in float64 copies of the weights (8 bytes each):

    the framework's steps    weights, gradients and the optimiser's numbers, on each rank; with
                             ddp and horovod the buckets that are exchanged too
    then, rank 0 alone       the reference's weights, its optimiser's numbers, the gradients, and
                             those of a pass that rounding has moved

Beside that: the largest weight once more, the first bytes of what is put aside (shelf.py), and the
activations of a small minibatch. Of a pipeline, a rank holds its own stages in the first part.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank.entry import is_out_of_memory
from pytest_dnnbench.rank.proof.free_memory import free_bytes
from pytest_dnnbench.rank.proof.heap import Spending

_GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class ProofCopies:
    """Float64 copies of the weights without which a proof cannot be: `reference` on rank 0 after
    the framework's steps, `steps` on each rank during them."""

    reference: float
    steps: float

    @classmethod
    def of_pipeline(cls, phase: str) -> "ProofCopies":
        """The reference's weights, momentum and gradients, and those of a pass that rounding has
        moved. Of the stages, ranks hold parts."""
        return cls(reference=4.0 if phase == "train" else 1.0, steps=0.0)

    def needed(self, place: Place) -> float:
        """Copies that have to fit where this rank keeps its tensors: of all CPU ranks of a machine
        together, of a rank on a GPU its own."""
        ranks = _sharing(place)
        return max(self.reference if place.rank == 0 else 0.0, ranks * self.steps)


class ProofOutOfMemory(MemoryError):
    """A proof does not fit; the message says what it needs and what helps."""


@contextmanager
def proof_conditions(
    model: str, fresh: Callable[[], nn.Module], place: Place, copies: ProofCopies
) -> Iterator[None]:
    """Proofs run inside: cuDNN chooses the same, deterministic kernels in every pass and on every
    rank. Raises ProofOutOfMemory when memory runs out. It names the model, made by `fresh` to count
    its weights."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with Spending.begun():
            yield
    except ProofOutOfMemory:
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the error hold what the proof had allocated: without them there is memory to
        # count with. Where it was raised is kept as text.
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        needs = _needs(_weights(fresh), place, copies)
        message = f"the proof of {model} ran out of memory: it holds {needs}; {_HELP}"
        raise ProofOutOfMemory(message) from error.with_traceback(None)
    finally:
        cudnn.deterministic, cudnn.benchmark = before


_HELP = (
    "free memory, raise the limit (ulimit -v, the container's), or prove a narrower or shallower"
    " form of the model; a smaller batch does not help"
)


def check_room(model: str, module: nn.Module, place: Place, copies: ProofCopies) -> None:
    """Raises ProofOutOfMemory where less memory is free than the proof cannot do without: before
    the kernel ends the ranks, or other programs. Called where `module`, in its own types, is all
    that each rank holds. Of CPU ranks, the first of a machine counts for all of them. In a proof,
    chooses whether it takes memory freely."""
    tensors = [*module.parameters(), *module.buffers()]
    # The module itself is given up before the proof's own copies are made.
    held = _sharing(place) * sum(each.nbytes for each in tensors)
    weights = sum(each.numel() for each in module.parameters())
    _refuse_without_room(model, weights, held, place, copies)
    Spending.choose(_is_plentiful(place, weights))


def check_room_ahead(
    model: str, fresh: Callable[[], nn.Module], place: Place, copies: ProofCopies
) -> None:
    """As `check_room`, before any work is done for the case: a large model's profile takes minutes.
    `fresh` makes the model, without memory where it can; of one that cannot nothing is known."""
    if (weights := _weights(fresh)) is not None:
        _refuse_without_room(model, weights, 0, place, copies)


def _refuse_without_room(
    model: str, weights: int, held: int, place: Place, copies: ProofCopies
) -> None:
    """`held`: bytes that the model has now and the proof will not."""
    on_host = place.device == "cpu"
    free = free_bytes(torch.device(place.device))
    if free is None or (on_host and (place.local_rank if place.node else place.rank) != 0):
        return
    free += held
    if 8 * copies.needed(place) * weights > free:
        where = "this machine has" if on_host else f"{place.device} has"
        raise ProofOutOfMemory(
            f"the proof of {model} does not fit: it holds {_needs(weights, place, copies)}, and"
            f" {where} {free / _GIBIBYTE:.1f} GiB free; {_HELP}"
        )


PLENTY = 16.0
"""Float64 copies of the weights that have to be free where two references are held at once: each
has 7 at most (docs/how-it-works.md), and others may need memory too."""


PART_FOR_DRAWS = 1 / 32
"""Of the free memory, what the random numbers take that all ranks of a machine remember."""


def room_for_draws(place: Place) -> int:
    """Bytes of random numbers that this rank may remember."""
    ranks = place.local_world_size if place.node else place.world_size
    return int((free_bytes(torch.device("cpu")) or 0) * PART_FOR_DRAWS / ranks)


PLENTY_OF_A_RANK = 12.0
"""Float64 copies of the weights that have to be free for each CPU rank of a machine where none of
them gives memory back: it has 7 at most, and puts up to 5 aside."""


def _is_plentiful(place: Place, weights: int) -> bool:
    """Whether a CPU rank may take memory freely."""
    if place.device != "cpu":
        return False
    free = free_bytes(torch.device(place.device))
    return free is not None and 8 * PLENTY_OF_A_RANK * _sharing(place) * weights <= free


def two_may_follow(place: Place, parameters: int) -> bool:
    """Whether ranks 0 and 1 may each hold a reference of so many weights at the same time: where
    memory is plentiful. Called on all ranks; no where they have no process group of torch's."""
    if not dist.is_initialized() or place.world_size == 1:
        return False
    free = free_bytes(torch.device(place.device))
    plentiful = [False] * place.world_size
    dist.all_gather_object(plentiful, free is not None and 8 * PLENTY * parameters <= free)
    return all(plentiful[:2])


def _sharing(place: Place) -> int:
    """Ranks that keep their tensors where this one does."""
    if place.device != "cpu":
        return place.sharing
    return place.local_world_size if place.node else place.world_size


def _needs(weights: int | None, place: Place, copies: ProofCopies) -> str:
    count = copies.needed(place)
    together = f" on {_sharing(place)} ranks together" if place.device == "cpu" else ""
    text = f"at least {count:g} float64 copies of the weights{together}"
    if weights is None:
        return text
    return f"{text}, {8 * count * weights / _GIBIBYTE:.1f} GiB for {weights:,} parameters"


def _weights(fresh: Callable[[], nn.Module]) -> int | None:
    """The number of parameters; None of a model that cannot be made without memory."""
    try:
        with torch.device("meta"):
            return sum(each.numel() for each in fresh().parameters())
    except Exception:  # A factory may need real tensors.
        return None
