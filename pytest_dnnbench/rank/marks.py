"""Marks around what torch's profiler does not name: waiting for data, for other stages, for an
exchange that another library makes, and updates that torch.optim does not make.

A framework marks them in its steps; a breakdown reads them (breakdown/). Outside profiled steps a
mark costs a look at one variable.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch.autograd.profiler import record_function

from pytest_dnnbench.step_parts import Part

PREFIX = "dnnbench::"
"""Of the marks' names in a trace."""

_Item = TypeVar("_Item")

_NOTHING = nullcontext()
_END = object()
_profiled = False


def mark(part: Part, what: str = "") -> AbstractContextManager[object]:
    """Marks what runs inside as a part of the step. `what` says more, as in mark("bubble",
    "activations")."""
    if not _profiled:
        return _NOTHING
    return record_function(f"{PREFIX}{part}{f': {what}' if what else ''}")


def each(batches: Iterator[_Item]) -> Iterator[_Item]:
    """The same batches; the wait for each is marked as data wait."""
    while True:
        with mark("data"):
            batch = next(batches, _END)
        if batch is _END:
            return
        yield batch  # type: ignore[misc] # _END has gone


def switch(on: bool) -> None:
    """Lets marks be seen from now on, or not. To be called by who profiles."""
    global _profiled
    _profiled = on
