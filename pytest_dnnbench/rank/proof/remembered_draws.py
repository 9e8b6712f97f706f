"""Random numbers that a model's factory draws, remembered: a proof makes the same model several
times, and of a small one drawing the weights is most of that.

A draw follows from its operator, its arguments, the form of the tensor and the state of torch's
generator alone. Where all these are as they were, the numbers and the generator's next state are
those of then. So whatever else a factory does between two draws, it gets what it would have drawn.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, OperatorMode, name_of

_FILLS = ("normal_", "uniform_")
"""Operators that fill a tensor with random numbers, whatever it held."""

_PLAIN = (torch.Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Numbers, and the state of the generator after them."""

    numbers: torch.Tensor
    next_state: torch.Tensor


class RememberedDraws(OperatorMode):
    """For the length of a `with`, random numbers on the host are drawn once, as long as all of them
    take at most `room_bytes`, with the generator's states before and after each draw."""

    def __init__(self, room_bytes: int) -> None:
        super().__init__()
        self._room_bytes = room_bytes
        self._drawn: dict[tuple[str, bytes], _Drawn] = {}

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator, or gives what it drew before."""
        if name_of(operator) not in _FILLS or not _is_repeatable(args, named):
            return operator(*args, **named)
        tensor, generator = args[0], torch.default_generator
        form = tensor.shape, tensor.stride(), tensor.dtype
        state = generator.get_state().numpy().tobytes()
        key = repr((name_of(operator), args[1:], sorted(named.items()), form)), state
        if drawn := self._drawn.get(key):
            tensor.detach().copy_(drawn.numbers)
            generator.set_state(drawn.next_state)
            return tensor
        result = operator(*args, **named)
        takes_bytes = tensor.nbytes + 2 * len(state)
        if takes_bytes <= self._room_bytes:
            self._room_bytes -= takes_bytes
            self._drawn[key] = _Drawn(tensor.detach().clone(), generator.get_state())
        return result


def _is_repeatable(args: Arguments, named: Named) -> bool:
    """Whether a draw is one into a plain tensor on the host, by torch's own generator."""
    others = (*args[1:], *named.values())
    return (
        type(args[0]) in _PLAIN
        and args[0].device.type == "cpu"
        and all(each is None or isinstance(each, int | float) for each in others)
    )
