"""The fields of rows that other packages make, held against their annotations: frameworks, their
options, metrics. A leaf.

Such a row is written once and read long after, where `requires="mine"` would be four modules of a
letter each. Not here: what hooks return (session/hook_rows.py).
"""

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pytest_dnnbench.errors import UsageError

_WORDS = {str: "text", bool: "True or False", int: "a whole number", float: "a number"}


def check_fields(row: Any) -> None:
    """Raises UsageError for the first field of a dataclass whose value its annotation excludes."""
    for field, annotation in get_type_hints(type(row)).items():
        value = getattr(row, field)
        if not _is(value, annotation):
            raise UsageError(
                f"{_named(row)}: {field} is {value!r}: give {_wanted(annotation, field)}"
            )


def check_paths(row: Any, fields: tuple[str, ...]) -> None:
    """Raises UsageError for a field that is neither None nor a path as "module:name"."""
    for field in fields:
        path = getattr(row, field)
        if path is None:
            continue
        module, _, name = path.partition(":")
        parts = [*module.split("."), *name.split(".")]
        if not all(part.isidentifier() for part in parts):
            wanted = "'package.module:name', which is imported when it is needed"
            raise UsageError(f"{_named(row)}: {field} is {path!r}: give {wanted}")


def _named(row: Any) -> str:
    return f"{type(row).__name__} {row.name!r}"


def _is(value: object, annotation: Any) -> bool:
    """Whether a value is of a type, for the kinds of types that rows have."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:  # of any length; a list serves as well
        return isinstance(value, (tuple, list)) and all(_is(each, inside[0]) for each in value)
    if inside and inspect.isclass(origin) and issubclass(origin, Mapping):
        of_key, of_value = inside
        return isinstance(value, Mapping) and all(
            _is(key, of_key) and _is(each, of_value) for key, each in value.items()
        )
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _wanted(annotation: Any, field: str) -> str:
    """A type, in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_wanted(each, field) for each in inside)
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is tuple:
        return f"a tuple, each {_wanted(inside[0], field)}"
    if inside:
        return f"a dict of {_wanted(inside[0], field)} to {_wanted(inside[1], field)}"
    if annotation is NoneType:
        return "None"
    return _WORDS.get(annotation, f"a {annotation.__name__}")
