"""`tp`: torch.distributed.tensor.parallel (Shoeybi et al., "Megatron-LM", 2019). Pairs of linear
layers are split among ranks, the first by its outputs and the second by its inputs; every rank
trains on all samples of the step.

                      ┌─ column: its heads, its inner features ─ row ─┐
    samples of all ──>│                                               │── added ──> next pair
                      └─ the same of another rank ────────────────────┘

Not here: which layers a workload can split (Workload.split).
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.held_bytes import held_bytes
from pytest_dnnbench.rank.models import seed
from pytest_dnnbench.rank.worker import Step

STYLES = {"column": ColwiseParallel, "row": RowwiseParallel}


class TpWorker(DataParallelWorker):
    """Holds its part of every layer that is split, and the whole of all others."""

    runs_alone = False
    shards = 1
    shard = 0

    @property
    def shard_size(self) -> int:
        """As many samples as all ranks of a data-parallel step have together."""
        return self.case.batch_size * self.place.world_size

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module with its layers split, and an optimiser of the parts."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        self.split = self.workload.split(module, self.place.world_size)
        _check(module, self.split)
        mesh = init_device_mesh(self.device.type, (self.place.world_size,))
        plan: dict[str, ParallelStyle] = {name: STYLES[way]() for name, way in self.split.items()}
        parallelize_module(module, mesh, plan)
        # The ranks' layers wait for each other in every block.
        module.register_forward_pre_hook(lambda *_: self.own_work.together(), prepend=True)
        # Dropout between the pairs must hit the same elements on every rank, or the weights that
        # each of them holds would drift apart.
        seed(self.case.seed)
        made = self.fresh_optimizer(module)
        for group in made.param_groups:
            # torch's fused loops take parts or whole tensors, not both.
            if group.get("foreach", False) is None:
                group["foreach"] = False
        return module, made

    def run(self, steps: int) -> Iterator[Step]:
        """As DataParallelWorker.run. All ranks have the same samples, and rank 0 counts them."""
        for step in super().run(steps):
            counted = step.samples if self.place.rank == 0 else 0
            yield Step(step.index, counted, step.loss)

    def metrics(self) -> dict[str, float]:
        """As Worker.metrics: what this rank holds between two steps."""
        return held_bytes(self.module, self.optimizer)

    def details(self) -> dict[str, object]:
        """As Worker.details: which layers are split, and how."""
        ways = list(self.split.values())
        return {**super().details(), **{way: ways.count(way) for way in STYLES}}


def _check(module: nn.Module, split: dict[str, str]) -> None:
    """Raises UsageError for a model that cannot be split, and for a split that is none."""
    if not split:
        convolution = next(
            (name for name, part in module.named_modules() if "Conv" in type(part).__name__), None
        )
        why = (
            f"tensor parallelism splits linear layers, and {convolution!r} is a convolution"
            if convolution
            else "the workload does not say which linear layers to split"
        )
        raise UsageError(
            f"{why}: use a model of tokens, as gpt-tiny, or a workload with a method `split`"
        )
    for name, way in split.items():
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            layer = None
        if way not in STYLES or not isinstance(layer, nn.Linear | nn.Embedding):
            raise UsageError(
                f"Workload.split has {name!r}: {way!r}: name linear layers or embeddings of the"
                " model, each with column or row"
            )
