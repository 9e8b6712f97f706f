"""Regions of a forward: `no_grad`, `inference_mode` and `autocast` around some of its operators.

A traced graph has operators only, so a context manager around them would be lost. The tracer notes
the region of each operator beside its node; whoever runs a node enters its region. Not here: the
tracing itself (tracer.py).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

_KEY = "forward_region"

Autocast = tuple[str, torch.dtype, bool, bool]
"""Device, dtype, whether it is on, whether casts of weights are kept."""


@dataclass(frozen=True, slots=True)
class ForwardRegion:
    """What is in force around an operator beyond what is in force around the whole forward.
    `autocasts` are the contexts that were entered, outermost first."""

    gradients: bool = True
    inference: bool = False
    autocasts: tuple[Autocast, ...] = ()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, called inside the region."""

        def inside(*args: Any, **kwargs: Any) -> Any:
            with enter_region(self.gradients, self.inference, self.autocasts):
                return function(*args, **kwargs)

        return inside


OUTSIDE = ForwardRegion()
"""Around most operators: nothing."""


def region_of(node: fx.Node) -> ForwardRegion:
    """The region of a traced node."""
    region: ForwardRegion = node.meta.get(_KEY, OUTSIDE)
    return region


def enter_region(gradients: bool, inference: bool, autocasts: tuple[Autocast, ...]) -> ExitStack:
    """Enters a region. The stack that is returned leaves it: call its `close`, or use `with`."""
    stack = ExitStack()
    if inference:
        stack.enter_context(torch.inference_mode())
    elif not gradients:
        stack.enter_context(torch.no_grad())
    for device, dtype, enabled, cached in autocasts:
        stack.enter_context(torch.autocast(device, dtype, enabled, cached))
    return stack


def leave_region(stack: ExitStack) -> None:
    """Leaves a region that `enter_region` has entered."""
    stack.close()


class RegionWatch:
    """Tells the region of the code that runs at this moment, while it watches."""

    def __init__(self) -> None:
        self._entered: list[Autocast] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the code inside a `with`. Gradients are on at its start, and afterwards as they
        were before."""
        enter, leave = torch.autocast.__enter__, torch.autocast.__exit__

        def entered(context: Any) -> Any:
            self._entered.append(
                (context.device, context.fast_dtype, context._enabled, context._cache_enabled)
            )
            return enter(context)  # type: ignore[no-untyped-call] # torch's gap

        def left(context: Any, *details: Any) -> Any:
            self._entered.pop()
            return leave(context, *details)

        # The state of torch does not tell apart "autocast is off" and "switched off here", so the
        # contexts themselves are watched.
        torch.autocast.__enter__, torch.autocast.__exit__ = entered, left  # type: ignore[method-assign] # as said
        try:
            with torch.enable_grad():
                yield
        finally:
            torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign] # back

    def mark(self, node: fx.Node) -> None:
        """Notes the present region beside a node, unless it is OUTSIDE."""
        region = ForwardRegion(
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), tuple(self._entered)
        )
        if region != OUTSIDE:
            node.meta[_KEY] = region
