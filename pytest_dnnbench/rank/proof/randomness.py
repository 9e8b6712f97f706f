"""A proof without randomness: every random number that torch draws is its mean.

Dropout then multiplies by one, drop path keeps every path, noise of mean zero vanishes, wherever in
a model they are and on whichever rank they run: a rank and its reference compute the same without
drawing the same numbers. Numbers from elsewhere (`random`, NumPy) are out of reach; a proof that
fails says that the model is random, where two passes of the reference differ.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.operator_mode import (
    Arguments,
    Named,
    OperatorMode,
    argument_names,
    name_of,
)

Means = dict[str, Callable[..., Any]]

DROPOUT_ARGUMENTS = ("dropout_p", "dropout")
"""What fused kernels (attention, recurrent layers) call their rate of dropout. It is set to 0."""

_SOUND = ("_cudnn_init_dropout_state",)
"""Operators that draw numbers which nothing uses at a rate of 0."""

_THREAD = threading.local()


@contextmanager
def drawing() -> Iterator[None]:
    """For the length of a `with`, random operators of this thread draw, whatever stands around it:
    for numbers of a framework's own, which a reference repeats."""
    _THREAD.draws = True
    try:
        yield
    finally:
        _THREAD.draws = False


class NoRandomness(OperatorMode):
    """For the length of a `with`, random operators of this thread give means, forward and backward.

    Raises UsageError for a random operator whose mean is not known.
    """

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator, or what stands for it."""
        if getattr(_THREAD, "draws", False):
            return operator(*args, **named)
        name = name_of(operator)
        if mean := _MEANS.get(name):
            return mean(operator, *args, **named)
        if rate := _rate_of(operator):
            args, named = _with_argument(argument_names(operator), rate, 0.0, args, named)
        elif _draws_without_rate(operator):
            raise UsageError(
                f"the model draws random numbers with torch's {name!r}, which the proof can neither"
                " switch off nor repeat: use torch.nn.Dropout, torch.rand or torch.randn instead,"
                " or draw only in evaluation mode of your own"
            )
        return operator(*args, **named)


class _Draws(OperatorMode):
    """Notes the first operator that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: str = ""

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator."""
        rate, name = _rate_of(operator), name_of(operator)
        given = {**dict(zip(argument_names(operator), args, strict=False)), **named}
        draws = given.get(rate, 0.0) if rate else _draws_without_rate(operator) or name in _MEANS
        if draws:
            self.drawn = self.drawn or name
        return operator(*args, **named)


@cache
def _rate_of(operator: Any) -> str:
    """What an operator calls its rate of dropout; empty where it has none."""
    names = argument_names(operator)
    return next((each for each in DROPOUT_ARGUMENTS if each in names), "")


@cache
def _draws_without_rate(operator: Any) -> bool:
    """Whether an operator draws random numbers whatever its arguments."""
    drawing = torch.Tag.nondeterministic_seeded in operator.tags
    return drawing and name_of(operator) not in _SOUND


def draws(call: Callable[[], object]) -> str:
    """The first random operator of torch that a call runs; empty where it runs none."""
    mode = _Draws()
    with mode:
        call()
    return mode.drawn


def _with_argument(
    names: Sequence[str], name: str, value: Any, args: Arguments, kwargs: Named
) -> tuple[Arguments, Named]:
    place = names.index(name)
    if place < len(args):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _filled(value: Callable[..., Any]) -> Callable[..., Any]:
    """In place: the tensor that is written to, full of a value made of the operator's arguments."""

    def fill(func: Any, tensor: torch.Tensor, *args: Any, generator: Any = None, **kw: Any) -> Any:
        return tensor.fill_(value(*args, **kw))

    return fill


def _made(value: float) -> Callable[..., Any]:
    """A new tensor, of the operator's shape and type, full of a value."""
    return lambda func, *args, **kwargs: func(*args, **kwargs).fill_(value)


def _bernoulli(
    func: Any, tensor: torch.Tensor, p: float | None = None, generator: Any = None
) -> Any:
    return tensor.clone() if p is None else torch.full_like(tensor, p)


def _bernoulli_(func: Any, tensor: torch.Tensor, p: Any = 0.5, generator: Any = None) -> Any:
    return tensor.copy_(p) if isinstance(p, torch.Tensor) else tensor.fill_(p)


def _dropout(func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return tensor.clone(), torch.ones_like(tensor, dtype=torch.bool)


def _normal(func: Any, mean: Any, *args: Any, **kwargs: Any) -> Any:
    drawn = func(mean, *args, **kwargs)
    return drawn.copy_(mean) if isinstance(mean, torch.Tensor) else drawn.fill_(mean)


def _randint(func: Any, *args: Any, **kwargs: Any) -> Any:
    given = {**dict(zip(argument_names(func), args, strict=False)), **kwargs}
    return func(*args, **kwargs).fill_((given.get("low", 0) + given["high"] - 1) // 2)


def _randperm(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs).sort().values


def _most_likely(func: Any, weights: torch.Tensor, samples: int, *args: Any, **kwargs: Any) -> Any:
    return weights.argsort(stable=True, dim=-1, descending=True)[..., :samples]


def _leaky(
    func: Any,
    tensor: torch.Tensor,
    noise: torch.Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Any:
    """RReLU of the mean of its slopes. The backward pass of training reads them from `noise`."""
    if not training:
        return func(tensor, noise, lower, upper, training)
    noise.fill_((lower + upper) / 2).masked_fill_(tensor > 0, 1.0)
    return tensor.mul_(noise) if name_of(func).endswith("_") else tensor * noise


_MEANS: Means = {
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_,
    "native_dropout": _dropout,
    "_fused_dropout": _dropout,
    "uniform_": _filled(lambda low=0.0, high=1.0: (low + high) / 2),
    "normal_": _filled(lambda mean=0.0, std=1.0: mean),
    "exponential_": _filled(lambda rate=1.0, lambd=None: 1 / (lambd or rate)),
    "random_": _filled(lambda low=0, high=None, to=None: ((to or high or 1) - 1 + low) // 2),
    "rand": _made(0.5),
    "rand_like": _made(0.5),
    "randn": _made(0.0),
    "randn_like": _made(0.0),
    "normal": _normal,
    "randint": _randint,
    "randint_like": _randint,
    "randperm": _randperm,
    "multinomial": _most_likely,
    "rrelu_with_noise": _leaky,
    "rrelu_with_noise_": _leaky,
}
