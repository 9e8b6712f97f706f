"""What a workload must be before anything is made of it: its settings, its model, its batches, its
counts. Each raises UsageError that names the workload's part, its value and what to return.

Not here: its optimiser and scheduler (update_rule.py), its loss (lone_forward.py).
"""

import math
import operator
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from torch import nn

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank.workloads.structure import tensors_of
from pytest_dnnbench.rank.workloads.workload import Batch, Workload


def check_settings(workload: Workload) -> None:
    """Its attributes `clip_norm`, `proof_size` and `sample`."""
    name, clip_norm = type(workload).__name__, workload.clip_norm
    if clip_norm is not None and not (_is_number(clip_norm) and 0 < clip_norm < math.inf):
        # A negative norm would turn gradients round, in the reference as well.
        raise UsageError(
            f"{name}.clip_norm is {clip_norm!r}: set a positive number, the largest norm of all"
            " gradients together, or None"
        )
    if type(workload.proof_size) is not int or workload.proof_size < 2:
        raise UsageError(
            f"{name}.proof_size is {workload.proof_size!r}: set a whole number of samples from 2,"
            " those in a minibatch of the proof"
        )
    # Only a timed function counts steps or bytes.
    units = [unit for unit in get_args(Sample) if unit not in ("step", "B")]
    if workload.sample not in units:
        raise UsageError(
            f"{name}.sample is {workload.sample!r}: set what throughput counts, one of"
            f" {', '.join(units)}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def model_of(workload: Workload) -> nn.Module:
    """A fresh model of the workload."""
    model: object = workload.model()
    if isinstance(model, nn.Module):
        return model
    raise UsageError(
        f"{type(workload).__name__}.model returned a {type(model).__name__}: return a"
        " torch.nn.Module"
    )


def blocks_of(workload: Workload, module: nn.Module) -> list[str]:
    """The names of a module's blocks, each of which it has."""
    names = list(workload.blocks(module))
    for name in names:
        try:
            module.get_submodule(name)
        except AttributeError:
            raise UsageError(
                f"{type(workload).__name__}.blocks names {name!r}, which the model does not have:"
                " return names of its submodules"
            ) from None
    return names


def checked_batch(batch: Any, workload: Workload, size: int, method: str) -> Batch:
    """The batch that `method` returned, if it is a pair whose inputs have tensors, of `size`
    samples.

    Samples are counted along the first tensor's first dimension. Where they lie differently, the
    workload has its own `samples`, or counts tokens; then nothing is said about the size. Neither
    is it of a `proof_batch`, which may be smaller, but not empty.
    """
    name = f"{type(workload).__name__}.{method}"
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        is_sequence = isinstance(batch, tuple | list)
        what = counted(len(batch), "value") if is_sequence else type(batch).__name__
        raise UsageError(
            f"{name} returned {what}: return two, the inputs of the model and the targets of the"
            " loss"
        )
    first = next(iter(tensors_of(batch[0])), None)
    if first is None:
        raise UsageError(
            f"the inputs of {name} are a {type(batch[0]).__name__} without a tensor: return a"
            " tensor, or a tuple, list or dict of tensors"
        )
    by_length = type(workload).samples is Workload.samples and workload.sample != "tok"
    wrong = by_length and method != "proof_batch" and (first.dim() == 0 or len(first) != size)
    if wrong or first.numel() == 0:
        raise UsageError(
            f"{name} was asked for {counted(size, 'sample')} and returned inputs of shape"
            f" {tuple(first.shape)}: make the first dimension that long, or say in"
            f" {type(workload).__name__}.samples how many samples they are"
        )
    return batch[0], batch[1]


def checked_batches(batches: Any, workload: Workload, size: int) -> Iterator[Batch]:
    """The real minibatches of a workload, each checked as it comes, without end."""
    name = f"{type(workload).__name__}.batches"
    if not isinstance(batches, Iterable):
        raise UsageError(
            f"{name} returned a {type(batches).__name__}: return an iterator of minibatches, or"
            " None"
        )
    return _checked_in_turn(batches, workload, size, name)


def _checked_in_turn(
    batches: Iterable[Any], workload: Workload, size: int, name: str
) -> Iterator[Batch]:
    number = 0
    for number, batch in enumerate(batches, 1):  # noqa: B007 - of use after the last
        yield checked_batch(batch, workload, size, "batches")
    raise UsageError(
        f"{name} ended after {counted(number, 'minibatch')}: return an iterator without end,"
        " which starts over after the last"
    )


def samples_of(workload: Workload, inputs: Any) -> int:
    """Samples in the inputs of a minibatch, as the workload counts them."""
    samples: Any = workload.samples(inputs)
    try:
        count = operator.index(samples)
    except TypeError:
        count = -1
    if count < 0:
        raise UsageError(
            f"{type(workload).__name__}.samples returned {samples!r}: return a whole number, the"
            " samples in the inputs"
        )
    return count
