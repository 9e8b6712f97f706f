"""What a test gives by its name or as itself, a model, a function, a check, and the arguments of a
function: how ranks find it.

Not here: what ranks do with it (rank/workloads/factory.py, rank/timed_function.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.controller.ranks import target_of
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Target


def name_of(named: str | Callable[..., Any], what: str = "model") -> str:
    """The "module:name" of what is given by name or as itself: a model by its factory, a function,
    a check. Raises UsageError for what ranks cannot import by name."""
    if isinstance(named, str):
        return named
    module, name = getattr(named, "__module__", None), getattr(named, "__qualname__", None)
    if not callable(named) or module is None or name is None or "<" in name:
        raise UsageError(
            f"{what} {named!r} cannot be imported by ranks: give a function or class at the top"
            " level of a module, or its name as package.module:factory"
        )
    return f"{module}:{name}"


def arguments_by_name(arguments: object) -> dict[str, Scalar]:
    """The arguments of a timed function. Raises UsageError for what has no names."""
    if not isinstance(arguments, Mapping):
        raise UsageError(f"arguments is {arguments!r}: give names and values, as in {{'size': 64}}")
    return dict(arguments)


def target_by_name(named: str | Callable[..., Any]) -> Target:
    """How ranks find what is given as "module:name" or as itself. Raises UsageError."""
    if not isinstance(named, str):
        return target_of(named)
    module, colon, name = named.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise UsageError(f"{named!r} is not of the form package.module:function")
    return module, name, None
