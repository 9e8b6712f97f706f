"""Trees of tensors as rows, and rows as trees again, of whatever classes they are made."""

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.workloads.structure import Structure, mapped, tensors_of


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Told:
    time: Any
    scale: float = 0.5


class Named(OrderedDict[str, Any]):
    """As the outputs of some libraries: a dict whose values are attributes too."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        vars(self)[key] = value


def numbered(*numbers: int) -> list[torch.Tensor]:
    return [torch.tensor(number) for number in numbers]


TREES: dict[str, Callable[..., Any]] = {
    "tensor": lambda a, b, c: a,
    "nested": lambda a, b, c: {"x": (a, [b, None]), "y": Pair(3, c)},
    "dataclass": lambda a, b, c: (a, Told(b), "text"),
    "named": lambda a, b, c: Named(loss=a, logits=(b, c)),
    "size": lambda a, b, c: (a, torch.Size([2, 3])),
}


@pytest.mark.parametrize("name", TREES)
def test_a_row_goes_back_to_the_very_structure(name: str) -> None:
    tree = TREES[name](*numbered(1, 2, 3))
    structure = Structure(tree)
    other = TREES[name](*numbered(4, 5, 6))
    row = structure.row(other)
    assert list(map(int, row)) == [4, 5, 6][: len(row)]
    made = structure.tree(row)
    assert type(made) is type(other)
    assert list(map(id, tensors_of(made))) == list(map(id, tensors_of(other)))
    assert Structure(other) == structure


def test_classes_are_those_of_the_user() -> None:
    first, second = numbered(1, 2)
    named = Structure(Named(loss=first, parts=Told(second))).tree(numbered(7, 8))
    assert (named.loss, named["parts"].time, named.parts.scale) == (7, 8, 0.5)
    doubled = mapped((Told(first), UserDict(x=second)), lambda tensor: tensor * 2)
    assert (int(doubled[0].time), doubled[0].scale) == (2, 0.5)
    assert doubled[1] == {"x": torch.tensor(4)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x": 1, "n": 3}, r"it 'x': 'a tensor' in one minibatch and 1 in another"),
        ({"x": torch.ones(2), "n": 4}, r"it: 3 in one minibatch and 4 in another.*as a tensor"),
        ({"x": torch.ones(2)}, r"it: \['x', 'n'\] in one minibatch and \['x'\] in another"),
        ((torch.ones(2), 3), r"it: \['x', 'n'\] in one"),
    ],
)
def test_another_structure_is_refused_with_what_differs(other: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Structure({"x": torch.ones(2), "n": 3}, "it").row(other)
    assert "\n" not in str(caught.value)
