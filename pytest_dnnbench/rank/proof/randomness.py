"""A proof without randomness: every random number that torch draws is its mean.

Dropout then multiplies by one, drop path keeps every path, noise of mean zero vanishes, wherever in
a model they are and on whichever rank they run: a rank and its reference compute the same without
drawing the same numbers. Numbers from elsewhere (`random`, NumPy) are out of reach; a proof that
fails says that the model is random, where two passes of the reference differ.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_dnnbench.errors import UsageError

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


class NoRandomness(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """For the length of a `with`, random operators of this thread give means, forward and backward.

    Raises UsageError for a random operator whose mean is not known.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator, or what stands for it."""
        kwargs = kwargs or {}
        if getattr(_THREAD, "draws", False):
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if mean := _MEANS.get(name):
            return mean(func, *args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        if rate := next((each for each in DROPOUT_ARGUMENTS if each in names), None):
            args, kwargs = _with_argument(names, rate, 0.0, args, kwargs)
        elif torch.Tag.nondeterministic_seeded in func.tags and name not in _SOUND:
            raise UsageError(
                f"the model draws random numbers with torch's {name!r}, which the proof can neither"
                " switch off nor repeat: use torch.nn.Dropout, torch.rand or torch.randn instead,"
                " or draw only in evaluation mode of your own"
            )
        return func(*args, **kwargs)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """Notes the first operator that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap
        self.drawn: str = ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        rates = [given.get(each, 0.0) for each in DROPOUT_ARGUMENTS if each in names]
        seeded = torch.Tag.nondeterministic_seeded in func.tags and name not in _SOUND
        if any(rates) if rates else (seeded or name in _MEANS):
            self.drawn = self.drawn or name
        return func(*args, **kwargs)


def draws(call: Callable[[], object]) -> str:
    """The first random operator of torch that a call runs; empty where it runs none."""
    mode = _Draws()
    with mode:
        call()
    return mode.drawn


def _with_argument(
    names: list[str], name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return func(*args, **kwargs).fill_((given.get("low", 0) + given["high"] - 1) // 2)


def _randperm(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs).sort().values


def _most_likely(func: Any, weights: torch.Tensor, samples: int, *args: Any, **kwargs: Any) -> Any:
    return weights.argsort(stable=True, dim=-1, descending=True)[..., :samples]


def _leaky(func: Any, *args: Any, **kwargs: Any) -> Any:
    """RReLU as in evaluation: the mean of its slopes."""
    names = [argument.name for argument in func._schema.arguments]
    args, kwargs = _with_argument(names, "training", False, args, kwargs)
    return func(*args, **kwargs)


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
