"""`horovod`: horovod.torch (Sergeev and Del Balso, "Horovod: fast and easy distributed deep
learning in TensorFlow", 2018), the real library, in its own group of ranks over gloo or NCCL.

Not here: the rendezvous of its ranks (controller/horovod_rendezvous.py), its build
(horovod_build/).
"""

import importlib.metadata
import math
import os
from collections.abc import Mapping
from typing import Any

import horovod.torch as hvd
import torch
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import marks
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.proof.exchange_rounding import exchange_in

_MEBIBYTE = 1 << 20


class HorovodWorker(DataParallelWorker):
    """Horovod's own thread averages gradients, tensor by tensor or fused, while the backward pass
    runs."""

    has_own_group = True
    exchanges_on_arrival = True

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        options = request.case.options
        self.op = str(options.get("op", "average"))
        self.compression = str(options.get("compression", "none"))
        own_passes = int(options.get("backward_passes_per_step", 1))
        self.passes = max(own_passes, request.case.form.accumulate)
        # On one rank Horovod's optimiser is torch's own.
        self.exchanges_zeros = place.world_size > 1
        if self.compression == "fp16" and place.world_size > 1:
            self.rounding = exchange_in(torch.float16, place.world_size)

    def connect(self) -> None:
        """Joins Horovod's group. Its core reads its settings from the environment when it
        starts."""
        join(self.place, self._core_settings())

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module unchanged; the optimiser in DistributedOptimizer. Weights and optimiser state
        are rank 0's."""
        _check_exchangeable(module)
        _broadcast_weights(module)
        if type(optimizer) is torch.optim.SGD:
            _broadcast_state(optimizer)
        # Others are left as every rank has made them: alike, and without a state. Horovod would
        # fill it by a step, which Adam and its kin count.
        try:
            wrapped: torch.optim.Optimizer = hvd.DistributedOptimizer(
                optimizer,
                named_parameters=module.named_parameters(),
                compression=Contiguous(getattr(hvd.Compression, self.compression)),
                op=hvd.Average,
                backward_passes_per_step=self.passes,
            )
        except TypeError as error:
            raise UsageError(
                f"Horovod makes {type(optimizer).__name__} anew from its parameter groups alone,"
                f" which fails ({error}): give its other arguments defaults, or use ddp"
            ) from error
        return module, wrapped

    def update(self) -> None:
        """Waits for the averaged gradients, then updates the weights. Horovod's optimiser would
        wait inside its step, where the wait could not be separated from the update."""
        optimizer: Any = self.optimizer  # Horovod has no types
        with marks.mark("communication", "Horovod's synchronize"):
            optimizer.synchronize()
        self.own_work.alone()
        self.rule.clip()
        with optimizer.skip_synchronize():
            optimizer.step()
        self.rule.follow()

    def align(self) -> None:
        """Waits for all ranks."""
        align()

    def close(self) -> None:
        """Ends Horovod's thread and leaves its group."""
        leave()

    def details(self) -> dict[str, object]:
        """The settings in force, and the operations of the installed Horovod."""
        return {
            **super().details(),
            "horovod": _version(),
            "controller": "gloo",
            "operations": "nccl" if self.device.type == "cuda" and hvd.nccl_built() else "gloo",
            "op": self.op,
            "compression": self.compression,
            "backward_passes_per_step": self.passes,
            **{name.lower(): value for name, value in self._core_settings().items()},
        }

    def _core_settings(self) -> dict[str, str]:
        options: dict[str, Scalar] = self.case.options
        return {
            "HOROVOD_FUSION_THRESHOLD": str(
                int(float(options.get("fusion_threshold_mb", 128.0)) * _MEBIBYTE)
            ),
            "HOROVOD_CYCLE_TIME": str(float(options.get("cycle_time_ms", 1.0))),
        }


def join(place: Place, core_settings: Mapping[str, str]) -> None:
    """Joins Horovod's group, with these settings of its core as environment variables. Raises
    UsageError where Horovod cannot do what this place asks for."""
    # Rounded up: a rank that gives up before the launch's time-out would be blamed in place of the
    # rank that it waits for.
    os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"] = str(math.ceil(place.timeout_s))
    os.environ.update(core_settings)
    hvd.init()
    if hvd.size() != place.world_size or hvd.rank() != place.rank:
        raise UsageError(
            f"Horovod sees itself as rank {hvd.rank()} of {hvd.size()}, not {place.rank}"
            f" of {place.world_size}: launch with the catalog's rendezvous, and without"
            " HOROVOD_* set"
        )
    # Of a single rank too: what it exchanges with itself goes the same way.
    if place.device.startswith("cuda") and not hvd.nccl_built():
        raise UsageError(
            f"Horovod {_version()} was built without NCCL, so it cannot average on"
            f" {place.device}: run `dnnbench horovod --force` where CUDA's toolkit is, or use"
            " CPU ranks"
        )


def align() -> None:
    """Waits for all ranks of Horovod's group."""
    hvd.barrier()


def leave() -> None:
    """Ends Horovod's thread and leaves its group."""
    if hvd.is_initialized():
        hvd.shutdown()


class Contiguous:
    """A Horovod compressor that passes contiguous tensors on, and of others (channels_last) a
    contiguous copy, whose mean goes back into the gradient's own layout. Horovod takes no other."""

    def __init__(self, compressor: Any) -> None:
        self._compressor = compressor

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The tensor to exchange, and what `decompress` needs."""
        compressed, context = self._compressor.compress(tensor.contiguous())
        return compressed, (context, None if tensor.is_contiguous() else tensor)

    def decompress(self, tensor: torch.Tensor, context: Any) -> torch.Tensor:
        """The gradient, from what was exchanged."""
        inner, laid_out = context
        mean: torch.Tensor = self._compressor.decompress(tensor, inner)
        return mean if laid_out is None else laid_out.copy_(mean)


def _check_exchangeable(module: nn.Module) -> None:
    """Raises UsageError for what Horovod's exchange cannot do with this module."""
    for name, part in module.named_modules():
        if isinstance(part, hvd.SyncBatchNorm):
            raise UsageError(
                f"{name!r} is a SyncBatchNorm of Horovod: the proof's reference runs the model in"
                " one process, where nobody answers its exchange; use torch.nn.BatchNorm2d"
            )
    for name, tensor in module.state_dict().items():
        if tensor.is_complex() or tensor.dtype == torch.bfloat16:
            raise UsageError(
                f"{name!r} is of type {str(tensor.dtype).removeprefix('torch.')}, which Horovod"
                " cannot exchange: use float32 or float16 weights, or the framework ddp"
            )


def _broadcast_weights(module: nn.Module) -> None:
    """Gives every rank the parameters and buffers of rank 0, through contiguous copies where they
    are laid out otherwise."""
    state = module.state_dict()
    copies = {name: tensor.contiguous() for name, tensor in state.items()}
    hvd.broadcast_parameters(copies, root_rank=0)
    for name, tensor in state.items():
        if copies[name] is not tensor and not tensor.is_contiguous():
            tensor.copy_(copies[name])


def _broadcast_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives every rank's optimiser the state of rank 0's.

    Horovod fills an empty state by a step with gradients of zero. Weight decay would make that a
    real step, so it is switched off for it.
    """
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for parameter, state in optimizer.state.items():
        # Horovod makes them contiguous; torch's own have the layout of their parameter.
        buffer = state.get("momentum_buffer")
        if buffer is not None and buffer.stride() != parameter.stride():
            state["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer).detach()


def _version() -> str:
    return importlib.metadata.version("horovod")
