"""A step that is captured as a CUDA graph: its kernels are recorded once, and launched together in
every later step.

    steps 1 .. eager   as they are written, on a stream of their own: libraries choose their kernels
                       there, and the optimiser makes its state
    the next step      captured: what would be queued is recorded; then launched for the first time
    all further ones   the minibatches go to where the recorded kernels read them; launched again

A step's Python runs in the first steps only. Not here: which framework takes the form
(catalog/frameworks.py), how its step is proven (proof/framework_steps.py).
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.entry import is_out_of_memory
from pytest_dnnbench.rank.update_rule import UpdateRule
from pytest_dnnbench.rank.workloads.structure import mapped, tensors_of

EAGER = 3
"""Steps before the capture: libraries may still choose kernels in the second one."""

FLAG = "--dnn-cuda-graph"

Replay = Callable[[], None]


class Capturing(Protocol):
    """How work is captured on a device."""

    def eager(self, work: Callable[[], Any]) -> Any:
        """Runs work as `capture` queues it, without recording it."""

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Replay]:
        """Records what work queues, and runs none of it. Returns its output, which each replay
        fills anew, and the replay. Raises RuntimeError for what cannot be recorded."""

    def peak_bytes(self) -> float | None:
        """The allocator's peak during the last capture: replays use this memory and allocate
        none. None where that is not counted."""


class CudaCapturing:
    """Captures on one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # What runs before the capture, and the capture itself, share a stream: libraries keep
        # workspaces per stream, and the backward pass adds gradients on that of its forward pass.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's gap
        self._peak: float | None = None

    def eager(self, work: Callable[[], Any]) -> Any:
        """As Capturing.eager."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = work()
        current.wait_stream(self._stream)
        return output

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Replay]:
        """As Capturing.capture."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.reset_peak_memory_stats(self._device)
        # Only this thread's calls may spoil the capture: a loader's threads pin memory meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            output = work()
        self._peak = float(torch.cuda.max_memory_allocated(self._device))
        return output, graph.replay

    def peak_bytes(self) -> float | None:
        """As Capturing.peak_bytes."""
        return self._peak


class StepGraph:
    """Runs `work`, a function of a step's minibatches, `eager` times as it is written and captured
    from then on. Minibatches and output are tensors, or containers of tensors.

    `parameters` are those whose gradients work makes. `name` is that of the model, for errors.
    """

    def __init__(
        self,
        capturing: Capturing,
        work: Callable[[Any], Any],
        *,
        name: str,
        parameters: Iterable[nn.Parameter] = (),
        eager: int = EAGER,
    ) -> None:
        self._capturing = capturing
        self._work = work
        self._name = name
        self._parameters = tuple(parameters)
        self._eager_left = eager
        self._inputs: Any = None
        self._output: Any = None
        self._replay: Replay | None = None
        self._gradients: list[torch.Tensor | None] = []

    @property
    def peak_bytes(self) -> float | None:
        """The allocator's peak during the capture; None before it."""
        return self._capturing.peak_bytes() if self._replay else None

    def run(self, minibatches: Any) -> Any:
        """One step; returns a copy of its output. Raises UsageError for a step that cannot be
        captured, and for minibatches of another size than before."""
        if self._eager_left > 0:
            self._eager_left -= 1
            return self._capturing.eager(lambda: self._work(minibatches))
        if self._replay is None:
            self._replay = self._captured(minibatches)
        else:
            self._fill(minibatches)
        self._replay()
        self._attach_gradients()
        return mapped(self._output, torch.clone)

    def _captured(self, minibatches: Any) -> Replay:
        self._inputs = mapped(minibatches, torch.clone)
        # Gradients that the capture makes lie in the graph's memory, which each replay overwrites.
        for parameter in self._parameters:
            parameter.grad = None
        try:
            self._output, replay = self._capturing.capture(lambda: self._work(self._inputs))
        except RuntimeError as error:
            # The end of a capture that has failed raises another error.
            first = error.__context__ or error
            if is_out_of_memory(first) or not isinstance(first, RuntimeError):
                raise first from None
            reason = next(iter(str(first).splitlines()), type(first).__name__)
            raise UsageError(
                f"{FLAG}: the step of {self._name} cannot be captured ({reason}): meanwhile nothing"
                " may wait for the GPU or bring numbers to the host, as .item(), .cpu(), printing"
                " and masks as indices do; change that in model, loss or optimiser, or leave the"
                " option out"
            ) from error
        self._gradients = [parameter.grad for parameter in self._parameters]
        return replay

    def _fill(self, minibatches: Any) -> None:
        for place, tensor in zip(tensors_of(self._inputs), tensors_of(minibatches), strict=True):
            if (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
                raise UsageError(
                    f"{FLAG}: a minibatch of {self._name} has a tensor of the shape"
                    f" {tuple(tensor.shape)} in {tensor.dtype}, and the step was captured with"
                    f" {tuple(place.shape)} in {place.dtype}: let all minibatches be alike, or"
                    " leave the option out"
                )
            place.copy_(tensor, non_blocking=True)

    def _attach_gradients(self) -> None:
        """Whoever looks at gradients, or drops them, does so through the parameters."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient


def check_capturable(rule: UpdateRule) -> None:
    """Makes the optimiser ready to be captured, where it can be. Raises UsageError where its update
    depends on numbers that it keeps on the host: a captured one would have them for ever."""
    if rule.scheduler is not None:
        raise UsageError(
            f"{FLAG}: {type(rule.scheduler).__name__} changes the learning rate on the host, and a"
            " captured step keeps the one that it had: leave the scheduler or the option out"
        )
    optimiser = rule.optimiser
    for group in optimiser.param_groups:
        if "capturable" not in group or group["capturable"]:
            continue
        if not group.get("fused"):
            raise UsageError(
                f"{FLAG}: {type(optimiser).__name__} counts its steps on the host: make it with"
                " capturable=True, add --dnn-fused where it has that form, or leave the option out"
            )
        group["capturable"] = True  # a fused one counts on the device already
    # torch warns of a capturable optimiser that steps uncaptured, as ours does at first.
    optimiser._warned_capturable_if_run_uncaptured = True
