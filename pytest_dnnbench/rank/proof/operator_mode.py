"""The form of all modes of proofs: what stands between a call of one of torch's operators, forward
or backward, and the operator. Not here: what a mode does (randomness.py, rounding.py,
arithmetic.py, lone_forward.py, float64_convolutions.py, block_trial.py)."""

from abc import abstractmethod
from functools import cache
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

Arguments = tuple[Any, ...]
Named = dict[str, Any]


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """For the length of a `with`, `run` stands for each operator of this thread."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call] # torch's gap

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Arguments = (), kwargs: Named | None = None
    ) -> Any:
        """As torch calls it."""
        return self.run(func, args, kwargs or {})

    @abstractmethod
    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator of torch (`torch._ops.OpOverload`), or what stands for it."""


@cache
def name_of(operator: Any) -> str:
    """An operator's name, without "aten::", where torch's own are."""
    name: str = operator._schema.name
    return name.removeprefix("aten::")


@cache
def argument_names(operator: Any) -> tuple[str, ...]:
    """The names of an operator's arguments, in their order."""
    return tuple(argument.name for argument in operator._schema.arguments)
