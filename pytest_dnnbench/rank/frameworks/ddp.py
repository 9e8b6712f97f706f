"""`ddp`: torch.nn.parallel.DistributedDataParallel (Li et al., "PyTorch Distributed", VLDB
2020)."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    bf16_compress_hook,
    fp16_compress_hook,
)
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.power_sgd_hook import PLAIN_PASSES, PowerSgdHook
from pytest_dnnbench.rank.proof.exchange_rounding import exchange_in
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.workloads.workload import Batch

DEFAULT_BUCKET_MB = 25.0
"""torch's: MiB of gradients in a bucket, of which the first is smaller."""

HOOKS = {
    "fp16": (torch.float16, fp16_compress_hook),
    "bf16": (torch.bfloat16, bf16_compress_hook),
}
"""The type in which gradients are exchanged, and torch's hook for it."""

POWER_SGD = "powersgd"
"""The hook that exchanges matrices of low rank in place of gradients."""


class DdpWorker(DataParallelWorker):
    """Averages gradients bucket by bucket while the backward pass runs. All ranks take rank 0's
    weights and buffers."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        self.shares_buffers = place.world_size > 1
        options = request.case.options
        self.find_unused = bool(options.get("find_unused_parameters", False))
        self.static_graph = bool(options.get("static_graph", False))
        self.bucket_view = bool(options.get("gradient_as_bucket_view", False))
        self.bucket_mb = float(options.get("bucket_mb", DEFAULT_BUCKET_MB))
        self.hook = str(options.get("hook", "none"))
        self.low_rank = int(options.get("powersgd_rank", 1))
        self.synchronised = bool(options.get("sync_batchnorm", False))
        self._power: PowerSgdHook | None = None
        self._prepared = False
        if self.hook in HOOKS:
            self.rounding = exchange_in(HOOKS[self.hook][0], place.world_size)

    def converted(self, module: nn.Module) -> nn.Module:
        """As DataParallelWorker.converted: with torch's SyncBatchNorm for each batch normalisation.
        Raises UsageError for a model without one."""
        if not self.synchronised:
            return module
        if not any(isinstance(part, _BatchNorm) for part in module.modules()):
            raise UsageError(
                f"--dnn-ddp-sync-batchnorm: {self.case.model} has no batch normalisation; leave it"
                " out, or choose other models with --dnn-models"
            )
        return self.synchronising(module)

    def synchronising(self, module: nn.Module) -> nn.Module:
        """The module with batch normalisation over all ranks."""
        synced: nn.Module = SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call] # torch's gap
        return synced

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module in DistributedDataParallel with the case's options, whose defaults are
        torch's; the optimiser unchanged."""
        devices = [self.device] if self.device.type == "cuda" else None
        # A size that is given, be it the default, takes from torch its smaller first bucket.
        given = {} if self.bucket_mb == DEFAULT_BUCKET_MB else {"bucket_cap_mb": self.bucket_mb}
        model = DistributedDataParallel(
            module,
            device_ids=devices,
            **given,  # type: ignore[arg-type] # a size, which torch takes as int
            find_unused_parameters=self.find_unused,
            static_graph=self.static_graph,
            gradient_as_bucket_view=self.bucket_view,
        )
        if self.hook in HOOKS:
            model.register_comm_hook(None, HOOKS[self.hook][1])
        if self.hook == POWER_SGD:
            self._power = PowerSgdHook(self.low_rank)
            self._power.register(model)
        self._prepared = self._power is None
        # Before the module's own forward pass, the ranks wait for rank 0's buffers.
        model.register_forward_pre_hook(lambda *_: self.own_work.together())
        if not self.synchronised:
            module.register_forward_pre_hook(lambda *_: self.own_work.alone())
        return model, optimizer

    @property
    def step_copies(self) -> float:
        """As DataParallelWorker.step_copies, and the buckets, unless gradients lie in them."""
        return super().step_copies + (0.0 if self.bucket_view else 1.0)

    def give_up(self) -> None:
        """As DataParallelWorker.give_up. PowerSGD's hook holds what it has left out."""
        self._power = None
        super().give_up()

    def prepare(self, minibatches: Sequence[Batch]) -> None:
        """As DataParallelWorker.prepare: the passes in which PowerSGD averages plainly, on the
        first minibatch, without an update and without an effect on buffers."""
        if self._prepared:
            return
        self._prepared = True
        held = Buffers(self.module)
        with held.borrowed(held.copies()):
            for _ in range(PLAIN_PASSES):
                self._backward(minibatches[0])
                self.optimizer.zero_grad()

    def approximation(self) -> LowRank | None:
        """As DataParallelWorker.approximation: of PowerSGD."""
        if self._power is None:
            return None
        names = {id(each): name for name, each in self.module.named_parameters()}
        return self._power.written(names)

    def exchanging(self, last: bool) -> AbstractContextManager[object]:
        """As DataParallelWorker.exchanging: all but the last backward pass leave gradients here."""
        if last:
            return nullcontext()
        assert isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync()

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """As DataParallelWorker.train_step. Raises UsageError where torch finds parameters that get
        no gradient."""
        try:
            return super().train_step(minibatches)
        except RuntimeError as error:
            if not self.find_unused and "find_unused_parameters=True" in str(error):
                raise UsageError(
                    "DistributedDataParallel waits for gradients of parameters that the model does"
                    f" not use ({self._unused(str(error))}): add --dnn-ddp-find-unused, or remove"
                    " them from the model"
                ) from error
            raise

    def _unused(self, error: str) -> str:
        """The names of the parameters that torch's error gives by their places."""
        names = [name for name, each in self.module.named_parameters() if each.requires_grad]
        places = re.findall(r"\d+", error.partition(f"rank {self.place.rank}:")[2].split("\n")[0])
        return ", ".join(repr(names[int(place)]) for place in places if int(place) < len(names))

    def details(self) -> dict[str, object]:
        """The options in force."""
        return {
            **super().details(),
            "find_unused_parameters": self.find_unused,
            "static_graph": self.static_graph,
            "gradient_as_bucket_view": self.bucket_view,
            "bucket_mb": self.bucket_mb,
            "hook": self.hook,
            "sync_batchnorm": self.synchronised,
            **self._of_power(),
        }

    def _of_power(self) -> dict[str, object]:
        """What is told of PowerSGD: its rank, and how much smaller it made the exchange."""
        if self._power is None:
            return {}
        return {
            "powersgd_rank": self.low_rank,
            "powersgd_compression": round(self._power.compression, 2),
        }
