"""Workers of torch's schedules with one planted fault each: the proof must catch every one."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from pytest_dnnbench.rank.frameworks.torch_pipeline import TorchPipelineWorker
from pytest_dnnbench.rank.pipeline.passes import Row
from pytest_dnnbench.rank.pipeline.torch_runtime import TorchRuntime


class GradientsSummed(TorchPipelineWorker):
    """Gradients are not divided by the number of microbatches."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        made = runtime._schedule

        def unscaled(*, training: bool) -> Any:
            schedule = made(training=training)
            schedule.scale_grads = False
            return schedule

        runtime._schedule = unscaled  # type: ignore[method-assign]
        return runtime


class ReplicasApart(TorchPipelineWorker):
    """Replicas keep their gradients to themselves."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        runtime._replicas_mean = None
        return runtime


class PartsOfOneReplica(TorchPipelineWorker):
    """A replica takes its own part of its own gradients for the mean of all replicas."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        for stage in runtime._torch_stages.values():
            assert isinstance(stage, FSDPModule)
            stage.set_custom_reduce_scatter(_NotReduced())  # type: ignore[arg-type] # its base is private
        return runtime


class _NotReduced:
    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Memory, as torch's own."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """This rank's own, at the scale of what the operation would give."""
        scale = 1 if op == dist.ReduceOp.AVG else group.size()
        output_tensor.copy_(input_tensor.chunk(group.size())[group.rank()] * scale)


class OneForwardTooMany(TorchPipelineWorker):
    """The last stage runs a forward pass before the first step, as torch does to learn shapes."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        made = runtime._schedule

        def rehearsed(*, training: bool) -> Any:
            for part in (part for module in runtime.modules.values() for part in module.modules()):
                if isinstance(part, nn.BatchNorm2d) and part.num_batches_tracked is not None:
                    part.num_batches_tracked += 1
            return made(training=training)

        runtime._schedule = rehearsed  # type: ignore[method-assign]
        return runtime


class LastMicrobatchLost(TorchPipelineWorker):
    """The gradients of the last microbatch do not count."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        loss, count = runtime._noted_loss, runtime.pipelines.microbatches_of_each

        def forgetful(row: Row, target: torch.Tensor) -> torch.Tensor:
            return loss(row, target) * (0.0 if int(target) == count - 1 else 1.0)

        runtime._noted_loss = forgetful  # type: ignore[method-assign]
        return runtime


class TiesApart(TorchPipelineWorker):
    """The copies of a tied weight keep their gradients to themselves."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        runtime._ties = []
        return runtime


class ClippedByThemselves(TorchPipelineWorker):
    """Each rank clips by the norm of its own gradients."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)

        class Local:
            limit = runtime._limit.limit if runtime._limit is not None else 0.0

            def clipped(self, gradients: Any, device: Any, counted: Any) -> Any:
                """By the norm of this rank."""
                norm = float(torch.stack([each.norm() for each in gradients]).norm())
                return [each * min(1.0, self.limit / norm) for each in gradients]

        runtime._limit = Local()  # type: ignore[assignment]
        return runtime


class SteppedTwice(TorchPipelineWorker):
    """The optimiser steps twice in each update."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        runtime._optimisers = [
            *runtime._optimisers,
            *((each, None) for each, _ in runtime._optimisers),
        ]
        return runtime
