"""`fsdp`: torch.distributed.fsdp.fully_shard, FSDP2 (Zhao et al., "PyTorch FSDP", VLDB 2023; the
idea: Rajbhandari et al., "ZeRO", SC 2020). Each rank holds a part of every parameter, its gradient
and its optimiser's state; a block's weights are whole only while it runs.

Not here: the proof, which gathers what it compares (rank/proof, whole.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.held_bytes import held_bytes
from pytest_dnnbench.rank.fused_parts import update_parts
from pytest_dnnbench.rank.shardable import check_shardable

TYPES = {"none": None, "bf16": torch.bfloat16, "fp32": torch.float32}

RESHARD = {"auto": None, "yes": True, "no": False}
"""What becomes of a block's weights after its forward pass; auto frees those of all blocks, and
keeps the root's, which the backward pass needs first."""

EACH = "each"
"""Gradients are averaged, and shared out, in each backward pass of an accumulating step. As torch
does it unless it is told otherwise: a rank never holds whole gradients, which is why it shards."""


class FsdpWorker(DataParallelWorker):
    """Shards the workload's blocks one by one, and what is left with the root."""

    runs_alone = False
    wraps_blocks = True

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        options = request.case.options
        self.reshard = RESHARD[str(options.get("reshard", "auto"))]
        self.types = MixedPrecisionPolicy(
            param_dtype=TYPES[str(options.get("param_dtype", "none"))],
            reduce_dtype=TYPES[str(options.get("reduce_dtype", "none"))],
        )
        self.reduce = str(options.get("reduce", EACH))
        self.computes_in = [
            kind for kind in (self.types.param_dtype, self.types.reduce_dtype) if kind is not None
        ]
        self.wrapped: list[str] = []

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module with its blocks and itself sharded, and an optimiser of the parts."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        mesh = init_device_mesh(self.device.type, (self.place.world_size,))
        # In double precision, for the proof, nothing is cast.
        types = MixedPrecisionPolicy() if self.wide else self.types
        self.wrapped = shard_blocks(module, self.units, mesh, self.reshard, types)
        # From its first layer on a rank waits for the others' parts.
        module.register_forward_pre_hook(lambda *_: self.own_work.together(), prepend=True)
        made = self.fresh_optimizer(module)
        return module, update_parts(made) if self.case.form.fused else made

    def exchanging(self, last: bool) -> AbstractContextManager[object]:
        """As DataParallelWorker.exchanging: all but the last backward pass leave whole gradients
        here, where the case asks for that."""
        return self._reducing(last or self.reduce == EACH)

    @contextmanager
    def _reducing(self, reduces: bool) -> Iterator[None]:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(reduces)
        yield

    @property
    def step_copies(self) -> float:
        """As DataParallelWorker.step_copies: a part of each weight."""
        return super().step_copies / self.place.world_size

    def metrics(self) -> dict[str, float]:
        """As Worker.metrics: what this rank holds between two steps."""
        return held_bytes([self.module], [self.optimizer])

    def details(self) -> dict[str, object]:
        """As Worker.details: what was wrapped, and the options in force."""
        return {
            **super().details(),
            "wrapped": [*self.wrapped, "(root)"],
            "reshard_after_forward": "auto" if self.reshard is None else self.reshard,
            "param_dtype": _name(self.types.param_dtype),
            "reduce_dtype": _name(self.types.reduce_dtype),
            "reduce": self.reduce,
        }


def shard_blocks(
    module: nn.Module,
    units: Sequence[str],
    mesh: DeviceMesh,
    reshard: bool | None,
    types: MixedPrecisionPolicy,
    along: Callable[[nn.Parameter], Shard | None] | None = None,
) -> list[str]:
    """Shards a module in place over the ranks of a mesh: the units of these names one by one, and
    what is left with the root; each parameter along the dimension that `along` gives, or the first.
    Returns the names of those that have parameters. Raises UsageError."""
    blocks = [name for name in units if any(True for _ in module.get_submodule(name).parameters())]
    _check_weights(module, blocks)
    for part in (*map(module.get_submodule, blocks), module):
        fully_shard(
            part,
            mesh=mesh,
            reshard_after_forward=reshard,
            shard_placement_fn=along,
            mp_policy=types,
        )
    return blocks


def _check_weights(module: nn.Module, blocks: Iterable[str]) -> None:
    """Raises UsageError for weights that FSDP cannot share out."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in module.named_parameters():
        block = next((each for each in blocks if name.startswith(f"{each}.")), "(root)")
        groups.setdefault(block, {})[name] = parameter
    for block, weights in groups.items():
        check_shardable(repr(block), weights, "name the parts in Workload.blocks, or use ddp")


def _name(kind: torch.dtype | None) -> str | None:
    return None if kind is None else str(kind).removeprefix("torch.")
