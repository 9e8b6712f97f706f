"""Inputs, targets and outputs as a row of tensors, and what stands around these.

    {"ids": ids, "extra": (mask, 3)}  <──>  (ids, mask)  and  {"ids": 0, "extra": (1, 3)}

A tree is a tensor, or tuples, lists, dicts and dataclasses of trees; every other value in it is a
constant. Not here: batches (batches.py), what a model is called with (workload.py).
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pytest_dnnbench.errors import UsageError

Built = Callable[[Sequence[Any]], Any]
"""Makes a tuple, list, dict or dataclass anew, of other values in the same places."""


def opened(tree: Any) -> tuple[list[tuple[Any, Any]], Built] | None:
    """The values inside a tuple, list, dict or dataclass, each with its key, and how to build the
    like of it; None for anything else. A size is one value."""
    if isinstance(tree, Mapping):
        keys = list(tree)
        return [(key, tree[key]) for key in keys], lambda values: _mapping(tree, keys, values)
    if isinstance(tree, tuple | list) and not isinstance(tree, torch.Size):
        return list(enumerate(tree)), lambda values: _sequence(tree, values)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        items = [(name, getattr(tree, name)) for name in names]
        return items, lambda values: _dataclass(tree, names, values)
    return None


def _mapping(like: Mapping[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> Any:
    """A dict of the same class; of a mapping that is no dict, a plain one."""
    if not isinstance(like, dict) or type(like) is dict:
        return dict(zip(keys, values, strict=True))
    made = copy.copy(like)
    for key, value in zip(keys, values, strict=True):
        made[key] = value
    return made


def _sequence(like: Any, values: Sequence[Any]) -> Any:
    if hasattr(like, "_fields"):  # a named tuple
        return type(like)(*values)
    return tuple(values) if isinstance(like, tuple) else list(values)


def _dataclass(like: Any, names: Sequence[str], values: Sequence[Any]) -> Any:
    made = copy.copy(like)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(made, name, value)  # a frozen one too
    return made


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors of a tree in their order."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif (inside := opened(tree)) is not None:
        for _, value in inside[0]:
            yield from tensors_of(value)


def mapped(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A tree with every tensor changed; other values stay as they are."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if (inside := opened(tree)) is None:
        return tree
    items, built = inside
    return built([mapped(value, change) for _, value in items])


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Stands for a tensor in a structure: its number in the row, its name."""

    number: int
    name: str


class Structure:
    """What stands around the tensors of a tree. `what` names the tree in messages; `leaves` are
    the classes that count as tensors, stand-ins of a trace among them."""

    def __init__(
        self, tree: Any, what: str = "value", leaves: tuple[type, ...] = (torch.Tensor,)
    ) -> None:
        self._what = what
        self._leaves = leaves
        self.names: list[str] = []
        self._tree = self._emptied(tree, "")

    def __len__(self) -> int:
        return len(self.names)

    def _emptied(self, tree: Any, path: str) -> Any:
        if isinstance(tree, self._leaves):
            self.names.append(path)
            return _Place(len(self.names) - 1, path)
        if (inside := opened(tree)) is None:
            return tree
        items, built = inside
        return built([self._emptied(each, f"{path}_{key}".strip("_")) for key, each in items])

    def row(self, tree: Any) -> tuple[Any, ...]:
        """The tensors of another tree of this structure, in the order of the row. Raises UsageError
        for a tree of another structure, or with other constants."""
        if isinstance(self._tree, _Place) and isinstance(tree, self._leaves):
            return (tree,)
        row: list[Any] = [None] * len(self)
        self._take(self._tree, tree, row)
        return tuple(row)

    def _take(self, own: Any, tree: Any, row: list[Any]) -> None:
        if isinstance(own, _Place):
            if not isinstance(tree, self._leaves):
                raise self._differs(own.name, "a tensor", tree)
            row[own.number] = tree
            return
        inside, theirs = opened(own), opened(tree)
        if inside is None or theirs is None:
            if inside is not theirs or not _equal(own, tree):
                raise self._differs("", own, tree)
            return
        items, others = inside[0], dict(theirs[0])
        if [key for key, _ in items] != list(others) and {key for key, _ in items} != set(others):
            raise self._differs("", [key for key, _ in items], list(others))
        for key, value in items:
            self._take(value, others[key], row)

    def _differs(self, name: str, first: object, other: object) -> UsageError:
        where = f" {name!r}" if name else ""
        return UsageError(
            f"{self._what}{where}: {_short(first)} in one minibatch and {_short(other)} in another,"
            " and stages of a pipeline are made for one structure: let every minibatch have the"
            " same, and give what changes as a tensor"
        )

    def tree(self, row: Sequence[Any]) -> Any:
        """The tree of these tensors."""
        if isinstance(self._tree, _Place):
            return row[self._tree.number]
        return self._filled(self._tree, row)

    def _filled(self, own: Any, row: Sequence[Any]) -> Any:
        if isinstance(own, _Place):
            return row[own.number]
        # A place is a dataclass too, so it was asked for first.
        if (inside := opened(own)) is None:
            return own
        items, built = inside
        return built([self._filled(value, row) for _, value in items])

    def described(self) -> str:
        """For people: the tensors by their names, or the constant in their place."""
        if isinstance(self._tree, _Place):
            return "a tensor"
        if not self.names:
            return _short(self._tree)
        return f"the tensors {', '.join(map(repr, self.names))}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and _equal(self._tree, other._tree)

    def __hash__(self) -> int:
        return hash(tuple(self.names))


def _equal(own: object, other: object) -> bool:
    """Whether two constants are equal; those that cannot say are where they are the same."""
    if own is other:
        return True
    try:
        return bool(own == other)
    except Exception:  # a user's class may raise anything
        return False


def _short(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


ONE = Structure(torch.empty(0))
"""That of one tensor."""
