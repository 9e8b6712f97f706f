"""Portable values: what goes from one machine to another as the arguments and results of functions
that run on ranks. MessagePack, never a pickle: reading it calls nothing but the constructors below.

    None, bool, int, float, str, bytes      themselves; an int beyond 64 bits as text
    list, tuple, set, frozenset, dict       a list that begins with the name of the kind
    NumPy's arrays and numbers, tensors     their type, shape and bytes
    RECORDS                                 the name of the class, and its fields

A leaf. Not here: answers whose type is fixed beforehand (frames.py, kind PLAIN).
"""

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec
import numpy as np

from pytest_dnnbench import case, function_case, messages, mnist_files, step_form, text_file
from pytest_dnnbench.errors import UsageError

RECORDS = {
    record.__name__: record
    for module in (case, function_case, messages, mnist_files, step_form, text_file)
    for record in vars(module).values()
    if isinstance(record, type) and is_dataclass(record) and record.__module__ == module.__name__
}
"""The classes of ours that may cross."""

_CONTAINERS: dict[str, Callable[..., Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
MOST_LEVELS = 200
"""How deep containers may lie in each other: what is read takes a call a level, and a rank's stack
and pytest's have other heights."""

_INT64 = range(-(1 << 63), 1 << 63)
_ARRAY_KINDS = "biufcSUmM"
"""NumPy's kinds of types whose bytes say everything: no objects, no records."""
_ARRAY_TYPE = re.compile(rf"[<>|=][{_ARRAY_KINDS}][0-9]{{1,6}}(\[[0-9]{{0,4}}[A-Za-z]{{1,2}}\])?")


def packed(value: Any) -> bytes:
    """The value as bytes. Raises UsageError for one that cannot go to another machine."""
    return msgspec.msgpack.encode(_tree(value, MOST_LEVELS))


def unpacked(body: bytes) -> Any:
    """The value behind the bytes. Raises ValueError for bytes that `packed` cannot have made."""
    try:
        return _value(msgspec.msgpack.decode(body))
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"no portable value: {type(error).__name__}: {error}") from None
    except (msgspec.MsgspecError, UsageError, RuntimeError) as error:
        raise ValueError(f"no portable value: {error}") from None


def _tree(value: Any, levels: int) -> Any:
    """The value as MessagePack has it, with at most so many levels of containers."""
    if levels < 0:
        raise UsageError(
            f"a value that holds itself, or whose containers lie more than {MOST_LEVELS} deep in"
            " each other, cannot go to another machine"
        )
    kind = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is int:
        return value if value in _INT64 else ["int", str(value)]
    if kind.__name__ in _CONTAINERS and kind in _CONTAINERS.values():
        return [kind.__name__, *(_tree(part, levels - 1) for part in value)]
    if kind is dict:
        return ["dict", *(_tree(part, levels - 1) for pair in value.items() for part in pair)]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _ARRAY_KINDS:
        name = "array" if isinstance(value, np.ndarray) else "number"
        return [name, value.dtype.str, list(value.shape), value.tobytes()]
    if kind.__module__ == "torch" and kind.__name__ == "Tensor":
        return _tensor_tree(value)
    if RECORDS.get(kind.__name__) is kind:
        return [
            "record",
            kind.__name__,
            *(_tree(getattr(value, row.name), levels - 1) for row in fields(value)),
        ]
    raise UsageError(
        f"a {kind.__module__}.{kind.__qualname__} cannot go to another machine: give and return"
        " numbers, text, containers of them, NumPy arrays and tensors"
    )


def _tensor_tree(tensor: Any) -> list[Any]:
    """A tensor's bytes; also of types that NumPy does not have."""
    torch = importlib.import_module("torch")  # by name: who has a tensor has imported it
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    name = str(tensor.dtype).removeprefix("torch.")
    return ["tensor", name, list(tensor.shape), flat.numpy().tobytes()]


def _value(tree: Any) -> Any:
    if tree is None or isinstance(tree, bool | int | float | str | bytes):
        return tree
    if not isinstance(tree, list) or not isinstance(tree[0], str):
        raise ValueError("no portable value: a part without a kind")
    kind, *parts = tree
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](map(_value, parts))
    if kind == "dict":
        values: Iterator[Any] = map(_value, parts)
        return dict(zip(values, values, strict=True))
    if kind == "int":
        return int(parts[0])
    if kind in ("array", "number"):
        return _array(kind, *parts)
    if kind == "tensor":
        return _tensor(*parts)
    if kind == "record":
        record = RECORDS[parts[0]]
        return record(**dict(zip(_names(record), map(_value, parts[1:]), strict=True)))
    raise ValueError(f"no portable value: the unknown kind {kind!r}")


def _names(record: Any) -> list[str]:
    return [row.name for row in fields(record)]


def _array(kind: str, type_name: str, shape: list[int], content: bytes) -> Any:
    # Looked at before NumPy does, whose own reader takes whole expressions.
    if not _ARRAY_TYPE.fullmatch(type_name):
        raise ValueError(f"no portable value: an array of {type_name}")
    array = np.frombuffer(content, np.dtype(type_name)).reshape(shape)
    return array.copy() if kind == "array" else array.reshape(())[()]


def _tensor(type_name: str, shape: list[int], content: bytes) -> Any:
    torch = importlib.import_module("torch")
    dtype = getattr(torch, type_name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no portable value: a tensor of {type_name}")
    if not content:  # torch sees no bytes as elements of another size
        return torch.zeros(0, dtype=dtype).reshape(shape)
    flat = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    return flat.view(dtype).reshape(shape)
