"""Puts a rank's model, batches and optimiser into the form of the case (step_form.py).

A form changes how a step is run and nothing of what it computes: the proof holds the formed step
against the plain reference. Not here: how many minibatches an update averages
(frameworks/data_parallel.py).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.proof.randomness import draws
from pytest_dnnbench.rank.workloads.checks import blocks_of
from pytest_dnnbench.rank.workloads.structure import mapped, tensors_of
from pytest_dnnbench.rank.workloads.workload import Batch, Workload
from pytest_dnnbench.step_form import CHANNELS_LAST, StepForm

_IMAGE_DIMENSIONS = 4


def form_module(module: nn.Module, form: StepForm, workload: Workload) -> None:
    """Changes a module in place: the layout of its weights, and the blocks that run again."""
    lay_out(module, form)
    if form.checkpointing:
        _checkpoint_blocks(module, workload)


def lay_out(module: nn.Module, form: StepForm) -> None:
    """Lays out a module's weights in place: those of convolutions, which have four dimensions."""
    if form.memory_format == CHANNELS_LAST:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's gap


def laid_out(batch: Batch, form: StepForm) -> Batch:
    """The batch with its images in the form's layout; those that have it already are not copied.
    Raises UsageError where channels_last is asked for and there are no images."""
    if form.memory_format != CHANNELS_LAST:
        return batch
    inputs, targets = batch
    if not any(tensor.dim() == _IMAGE_DIMENSIONS for tensor in tensors_of(inputs)):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        raise UsageError(
            "--dnn-memory-format channels_last is for images, (batch, channels, height, width), and"
            f" the inputs have the shapes {shapes}: use --dnn-memory-format contiguous"
        )
    return mapped(inputs, _channels_last), targets


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() != _IMAGE_DIMENSIONS:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def _checkpoint_blocks(module: nn.Module, workload: Workload) -> None:
    names = blocks_of(workload, module)
    if not names:
        raise UsageError(
            f"--dnn-checkpointing: {type(workload).__name__}.blocks names no part of the model:"
            " return the names of the parts whose activations are to be computed again"
        )
    for name in names:
        block = module.get_submodule(name)
        block.forward = _checkpointed(block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward pass whose activations are not kept. The second pass has the random state
    of the first, which torch sees to, and its buffers, which are ours to see to."""

    def forward_again(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(
            forward,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: _once_and_again(block),
            **named,
        )

    return forward_again


def _once_and_again(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a block's two passes. The second starts from the buffers of the first, and
    what it does to them is forgotten: batch normalisation would count each minibatch twice."""
    held = Buffers(block)
    before: dict[str, torch.Tensor] = {}

    @contextmanager
    def once() -> Iterator[None]:
        before.update(held.copies())
        yield

    @contextmanager
    def again() -> Iterator[None]:
        with held.borrowed(before):
            yield

    return once(), again()


def fuse(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser, which updates all weights in one kernel from now on. To be called before its
    first step. Raises UsageError for one that cannot."""
    name = type(optimiser).__name__
    if "fused" not in optimiser.defaults:
        raise UsageError(
            f"--dnn-fused: {name} has no fused form: leave the option out, or use torch.optim's"
            " SGD, Adam, AdamW or Adagrad"
        )
    for group in optimiser.param_groups:
        for other in ("foreach", "differentiable"):
            if group.get(other):
                raise UsageError(
                    f"--dnn-fused: {name} was made with {other}=True, which a fused one cannot be:"
                    " leave one of the two out"
                )
        group["fused"] = True
    optimiser.defaults["fused"] = True
    return optimiser


def compiled(module: nn.Module, form: StepForm) -> nn.Module:
    """The module as torch.compile runs it, which shares its weights; the module itself where the
    form does not ask for that. It is compiled in its first pass, for the sizes of that pass."""
    if not form.compile:
        return module
    # Other sizes are other graphs: one graph for all sizes would be slower than the measured one.
    return torch.compile(module, mode=form.compile, dynamic=False)  # type: ignore[return-value] # an OptimizedModule


@contextmanager
def without_randomness_compiled(module: nn.Module, passes: Callable[[], object]) -> Iterator[None]:
    """Proofs of a compiled step run inside: torch compiles nothing while a mode of dispatch
    (randomness.py) is on, so dropout and its like are switched off in the module instead.

    `passes` runs the module once, not compiled. Raises UsageError where it still draws numbers.
    """
    silent = [part for part in module.modules() if part.training and _only_random(part)]
    for part in silent:
        part.eval()
    try:
        if drawn := draws(passes):
            raise UsageError(
                f"--dnn-compile: the model draws random numbers with torch's {drawn!r} in its own"
                " forward, where the proof of a compiled step cannot switch them off: use"
                " torch.nn.Dropout and other modules without weights, or leave the option out"
            )
        yield
    finally:
        for part in silent:
            part.train()


def _only_random(part: nn.Module) -> bool:
    """Whether a module may be in evaluation mode without another effect than to draw nothing: it
    has neither parts, nor weights, nor buffers of its own."""
    own = [*part.children(), *part.parameters(), *part.buffers()]
    return not own


def graphs_compiled() -> int:
    """Graphs that torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
