"""A graph for machines without a GPU: records the operators of a step and runs them again, in the
same memory, without any of the step's Python. And workers whose step is captured so, right and
wrong ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.step_graph import Capturing, Replay, StepGraph
from tests.own_workloads import Words
from tests.tiny_models import tiny

TO_THE_HOST = "aten::_local_scalar_dense"


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """Keeps every operator with its tensors, and the first values of those that it reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap
        self.calls: list[Callable[[], None]] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.name == TO_THE_HOST:
            raise RuntimeError("operation not permitted when stream is capturing")
        read = _tensors((args, kwargs))
        for tensor in read:
            self.before.setdefault(_memory(tensor), (tensor, tensor.clone()))
        output = func(*args, **kwargs)
        places = {_memory(tensor) for tensor in read}
        made = [tensor for tensor in _tensors(output) if _memory(tensor) not in places]
        for tensor in made:  # never put back: it does not exist before
            self.before[_memory(tensor)] = (tensor, tensor)
        if made or func._schema.is_mutable:
            self.calls.append(lambda: _again(func, args, kwargs, output))
        return output

    def put_back(self) -> None:
        """As if nothing had run."""
        for tensor, value in self.before.values():
            tensor.copy_(value)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _again(func: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    for place, value in zip(_tensors(output), _tensors(func(*args, **kwargs)), strict=True):
        if _memory(place) != _memory(value):
            place.copy_(value)


class Recording:
    """Captures by a Recorder."""

    def eager(self, work: Callable[[], Any]) -> Any:
        """Runs it."""
        return work()

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Replay]:
        """As Capturing.capture."""
        random_state = torch.get_rng_state()
        with Recorder() as recorder:
            output = work()
        torch.set_rng_state(random_state)
        with torch.no_grad():
            recorder.put_back()

        def replay() -> None:
            with torch.no_grad():
                for call in recorder.calls:
                    call()

        return output, replay

    def peak_bytes(self) -> float | None:
        """A number of the test's."""
        return 123.0


class _Idle(Recording):
    """Its replays do nothing."""

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Replay]:
        """As Capturing.capture."""
        return super().capture(work)[0], lambda: None


class Captured(SingleWorker):
    """single, captured on a CPU rank."""

    def capturing(self) -> Capturing:
        """As SingleWorker.capturing."""
        return Recording()


class _KeepsInputs(StepGraph):
    def _fill(self, minibatches: Any) -> None:
        """Forgets to."""


class KeepsInputs(Captured):
    """Trains on the minibatches of the capture for ever."""

    def _build(self, *, wide: bool) -> None:
        super()._build(wide=wide)
        if self.graph:
            self.graph.__class__ = _KeepsInputs


class NeverReplays(Captured):
    """Launches nothing."""

    def capturing(self) -> Capturing:
        """As SingleWorker.capturing."""
        return _Idle()


class _Looks(nn.Module):
    """Brings a number to the host in its forward pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        return logits / (1 + logits.detach().abs().max().item())


def looks() -> nn.Module:
    """A model that cannot be captured."""
    return _Looks(tiny())


class _Halves(torch.optim.SGD):
    """Halves its rate in every step, on the host, and torch cannot tell."""

    def step(self, closure: Any = None) -> Any:
        """With half of the last rate."""
        for group in self.param_groups:
            group["lr"] = group["lr"] / 2
        return super().step(closure)


class Halving(Words):
    """A workload whose captured step would keep its rate."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """With a rate on the host."""
        return _Halves(model.parameters(), lr=0.1)


class Adam(Words):
    """AdamW as torch makes it."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Not fused."""
        return torch.optim.AdamW(model.parameters())
