"""The conditions under which a rank is proven: deterministic kernels, and a bound on memory that a
failure names."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pytest_dnnbench.rank.entry import is_out_of_memory
from pytest_dnnbench.rank.heap import map_large_tensors

COPIES = 11
"""Float64 copies of the weights that rank 0 of a proof holds at most, counted by a test."""

COPIES_OF_ADAM = 14
"""The same with an optimiser of the user's that keeps two numbers per weight, as AdamW does."""

_GIBIBYTE = 2**30


class ProofOutOfMemory(MemoryError):
    """A proof did not fit; the message says what it needs and what helps."""


@contextmanager
def proof_conditions(
    model: str, fresh: Callable[[], nn.Module], copies: int = COPIES
) -> Iterator[None]:
    """Proofs run inside: cuDNN chooses the same, deterministic kernels in every pass and on every
    rank. Raises ProofOutOfMemory, which names the model, made by `fresh` to count its weights, of
    which the proof needs so many copies."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    map_large_tensors()
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the error hold what the proof had allocated: without them there is memory to
        # count with. Where it was raised is kept as text.
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        raise ProofOutOfMemory(_advice(model, fresh, copies)) from error.with_traceback(None)
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _advice(model: str, fresh: Callable[[], nn.Module], copies: int) -> str:
    try:
        with torch.device("meta"):
            weights = sum(each.numel() for each in fresh().parameters())
    except Exception:  # A factory may need real tensors: the advice then goes without its size.
        size = ""
    else:
        size = f" of {weights:,} parameters, {copies * weights * 8 / _GIBIBYTE:.1f} GiB on rank 0"
    return (
        f"the proof of {model} ran out of memory: it holds up to {copies} float64 copies of the"
        f" weights{size}, whatever the batch: free memory, raise the limit (ulimit -v, the"
        " container's), or prove a narrower or shallower form of the model"
    )
