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
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.data_parallel_proof import exchange_in
from pytest_dnnbench.rank.workload import Batch

DEFAULT_BUCKET_MB = 25.0
"""torch's: MiB of gradients in a bucket, of which the first is smaller."""

HOOKS = {
    "fp16": (torch.float16, fp16_compress_hook),
    "bf16": (torch.bfloat16, bf16_compress_hook),
}
"""The type in which gradients are exchanged, and torch's hook for it. PowerSGD is not here: it
approximates gradients on purpose, so no bound holds its step against the mean."""


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
        self._check()
        if self.hook != "none":
            self.rounding = exchange_in(HOOKS[self.hook][0], place.world_size)

    def _check(self) -> None:
        """Raises UsageError for options that torch would fail on, late."""
        if not self.bucket_mb > 0:
            raise UsageError(f"--dnn-ddp-bucket-mb is {self.bucket_mb:g}: it must be above 0")
        if self.hook == "bf16" and self.device.type != "cuda":
            raise UsageError(
                "--dnn-ddp-hook bf16 needs CUDA: torch's hook works on NCCL only, and these are"
                f" {self.device.type} ranks; use fp16"
            )
        if self.static_graph and self.case.form.accumulate > 1:
            raise UsageError(
                "--dnn-ddp-static-graph with --dnn-accumulate: of a static graph torch exchanges"
                " gradients in every backward pass of its first step; leave one of them out"
            )

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module in DistributedDataParallel with the case's options, whose defaults are
        torch's; the optimiser unchanged."""
        devices = [self.device] if self.device.type == "cuda" else None
        model = DistributedDataParallel(
            module,
            device_ids=devices,
            bucket_cap_mb=self.bucket_mb,
            find_unused_parameters=self.find_unused,
            static_graph=self.static_graph,
            gradient_as_bucket_view=self.bucket_view,
        )
        if self.hook != "none":
            model.register_comm_hook(None, HOOKS[self.hook][1])
        # Before the module's own forward pass, the ranks wait for rank 0's buffers.
        model.register_forward_pre_hook(lambda *_: self.own_work.together())
        module.register_forward_pre_hook(lambda *_: self.own_work.alone())
        return model, optimizer

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
        }
