"""What a pass of the plain model shows of its blocks, before a framework wraps them: which change
their inputs in place, whose outputs are changed, and whose weights are used by others.

    value ─> [ table ] ─> [ relu_(value), linear ] ─> linear(value, table.weight)
                 └────────────── weight ──────────────────────────┘

fully_shard passes a block's inputs through a function of its own, whose outputs autograd lets
nobody change; a block that is checkpointed runs again on the inputs of its first run. A block that
changes its inputs works on a copy of them, as functions that are not in place would make one.

fully_shard keeps a block's weights whole only while the block runs. A block whose weights are used
at other times, as those that an embedding shares with the head, is no unit of its own: its weights
are whole with the root's.

What a layer that tp splits gives back comes from such a function too: where somebody changes it in
place, the layer gives a copy.

Not here: which parts are blocks (workload.py), how they are wrapped (step_forms.py,
frameworks/fsdp.py).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.lone_forward import outputs_of
from pytest_dnnbench.rank.proof.operator_mode import Arguments, Named, OperatorMode
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.workloads.model_copy import copied
from pytest_dnnbench.rank.workloads.structure import mapped, tensors_of
from pytest_dnnbench.rank.workloads.workload import Workload

Pass = Callable[[nn.Module], Any]
"""Runs a model once and returns its output."""

Places = Mapping[str, frozenset[int | str]]
"""By block: the places of the arguments that it changes, by number or by name."""

ROUNDING = 2.0**-5
"""What a copy may change of the output, relative to its largest element: its layout, and so the
order of a few sums, in bfloat16 at the worst. What it may not is far larger."""


@dataclass(frozen=True, slots=True)
class BlockTrial:
    """What a pass has shown. `changed`: the blocks that change their inputs; `rewritten`: those
    whose outputs others change; `shared`: those whose weights are used while they do not run;
    `outputs`: the model's, by name."""

    changed: Places
    rewritten: frozenset[str]
    shared: frozenset[str]
    outputs: Mapping[str, torch.Tensor]


def try_blocks(
    module: nn.Module, workload: Workload, blocks: Sequence[str], run: Pass
) -> BlockTrial:
    """What a pass shows of a plain module's blocks. `run` runs a module as it is trained; here a
    copy, which shares its weights, without gradients and random numbers."""
    trial = _trial_copy(module)
    watch = _Watch(trial, blocks)
    with torch.no_grad(), NoRandomness(), watch:
        outputs = outputs_of(workload, run(trial))
    return BlockTrial(watch.changed(), watch.rewritten(), frozenset(watch.shared), outputs)


def copy_changed_inputs(
    module: nn.Module, workload: Workload, shown: BlockTrial, run: Pass
) -> list[str]:
    """Gives those of a plain module's blocks that change their inputs copies to work on, and
    returns their names. Raises UsageError where the model goes on with what a block left in its
    input, which copies would hide from it."""
    if not shown.changed:
        return []
    trial = _trial_copy(module)
    _put_copies(trial, shown.changed)
    with torch.no_grad(), NoRandomness():
        outputs = outputs_of(workload, run(trial))
    if not all(_alike(before, outputs[name]) for name, before in shown.outputs.items()):
        raise UsageError(
            f"the model goes on with what {' or '.join(map(repr, shown.changed))} left in its"
            " input, which it changes in place, and a block that is sharded or checkpointed works"
            " on a copy: take functions that are not in place there (inplace=False), or name other"
            " parts in Workload.blocks"
        )
    _put_copies(module, shown.changed)
    return [*shown.changed]


def copy_outputs(module: nn.Module, names: Iterable[str]) -> None:
    """Lets parts of a module that a framework has wrapped give copies of their outputs."""
    for name in names:
        module.get_submodule(name).register_forward_hook(
            lambda _, inputs, output: mapped(output, torch.clone)
        )


def _trial_copy(module: nn.Module) -> nn.Module:
    return copied(module, sharing=module.parameters())


def _alike(before: torch.Tensor, after: torch.Tensor) -> bool:
    bound = ROUNDING * float(before.abs().max()) if before.numel() else 0.0
    return torch.allclose(before, after, rtol=0.0, atol=bound, equal_nan=True)


def _put_copies(module: nn.Module, changed: Places) -> None:
    for name, places in changed.items():
        block = module.get_submodule(name)
        block.forward = _on_copies(block.forward, places)


def _on_copies(forward: Callable[..., Any], places: frozenset[int | str]) -> Callable[..., Any]:
    """A forward pass on copies of the arguments in these places."""

    def forward_on_copies(*inputs: Any, **named: Any) -> Any:
        own = [
            mapped(value, torch.clone) if place in places else value
            for place, value in enumerate(inputs)
        ]
        own_named = {
            name: mapped(value, torch.clone) if name in places else value
            for name, value in named.items()
        }
        return forward(*own, **own_named)

    return forward_on_copies


@dataclass(frozen=True, slots=True)
class _Version:
    """A tensor in a place of a block's arguments, or of its outputs, and how often it had been
    changed by then."""

    block: str
    place: int | str
    tensor: torch.Tensor
    version: int

    @property
    def is_changed(self) -> bool:
        """Whether it, or a view of it, has been changed since."""
        return self.tensor._version != self.version


class _Watch(OperatorMode):
    """Watches the blocks of a model in one pass. A block that hands its input on, or a view of it,
    has changed it if anybody does."""

    def __init__(self, module: nn.Module, blocks: Sequence[str]) -> None:
        super().__init__()
        self.shared: set[str] = set()
        self._owners: defaultdict[int, set[str]] = defaultdict(set)
        self._running: Counter[str] = Counter()
        self._arguments: defaultdict[str, list[_Version]] = defaultdict(list)
        self._handed_on: list[_Version] = []
        self._outputs: list[_Version] = []
        self._changed: defaultdict[str, set[int | str]] = defaultdict(set)
        for name in blocks:
            block = module.get_submodule(name)
            for weight in block.parameters():
                self._owners[_memory(weight)].add(name)
            block.register_forward_pre_hook(self._entering(name), with_kwargs=True)
            block.register_forward_hook(self._leaving(name))

    def run(self, operator: Any, args: Arguments, named: Named) -> Any:
        """Runs an operator, and notes the blocks that do not run whose weights it takes."""
        for tensor in tensors_of((args, named)):
            owners = self._owners.get(_memory(tensor), ())
            self.shared.update(name for name in owners if not self._running[name])
        return operator(*args, **named)

    def changed(self) -> Places:
        """The arguments that were changed, after the pass."""
        for argument in self._handed_on:
            self._note(argument)
        return {block: frozenset(places) for block, places in self._changed.items()}

    def rewritten(self) -> frozenset[str]:
        """The blocks whose outputs were changed, after the pass."""
        return frozenset(output.block for output in self._outputs if output.is_changed)

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._running[name] += 1
            numbered: list[tuple[int | str, Any]] = [*enumerate(inputs)]
            self._arguments[name] += [
                _Version(name, place, tensor, tensor._version)
                for place, value in [*numbered, *named.items()]
                for tensor in tensors_of(value)
            ]

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(_: nn.Module, inputs: object, output: Any) -> None:
            self._running[name] -= 1
            results = {*map(_memory, tensors_of(output))}
            self._outputs += [_Version(name, 0, each, each._version) for each in tensors_of(output)]
            for argument in self._arguments.pop(name, []):
                self._note(argument)
                place, tensor = argument.place, argument.tensor
                if _memory(tensor) in results:
                    self._handed_on.append(_Version(name, place, tensor, tensor._version))

        return leave

    def _note(self, argument: _Version) -> None:
        if argument.is_changed:
            self._changed[argument.block].add(argument.place)


def _memory(tensor: torch.Tensor) -> int:
    """Where a tensor lies: views of one tensor are at the same place. A sparse one is its own."""
    if tensor.layout != torch.strided:
        return id(tensor)
    place: int = tensor.untyped_storage()._cdata
    return place
