"""Faults in what several tensors add to a pipeline, planted in ours and in torch's: the proof must
catch every one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pytest_dnnbench.rank.frameworks.pipedream import PipeDreamWorker
from pytest_dnnbench.rank.frameworks.torch_pipeline import TorchPipelineWorker
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.torch_runtime import TorchRuntime
from pytest_dnnbench.rank.workloads.structure import Structure

Row = tuple[torch.Tensor, ...]


def swapped() -> Callable[[Row], Row]:
    """The first two inputs take each other's place."""
    return lambda row: (row[1], row[0], *row[2:])


def of_another() -> Callable[[Row], Row]:
    """A microbatch gets the second input of the one before."""
    kept: list[torch.Tensor] = []

    def mixed(row: Row) -> Row:
        kept.append(row[1])
        return row[0], kept[-2] if len(kept) > 1 else row[1], *row[2:]

    return mixed


class Wrong(Structure):
    """A structure whose row is changed."""

    def __init__(self, right: Structure, change: Callable[[Row], Row]) -> None:
        self._right, self._change, self.names = right, change, right.names

    def row(self, tree: Any) -> Row:
        """The changed row."""
        return self._change(self._right.row(tree))


def without_auxiliary(loss: Callable[[Any, Any], torch.Tensor]) -> Any:
    """The loss has its value, and no gradient of the auxiliary head."""
    return lambda output, targets: loss({**output, "aux": output["aux"].detach()}, targets)


class _Entering:
    change: Callable[[], Callable[[Row], Row]]

    def _assembled(self, *arguments: Any) -> Any:
        runtime = super()._assembled(*arguments)  # type: ignore[misc] # that of a worker
        inputs = Wrong(runtime._ends.inputs, type(self).change())
        runtime._ends = replace(runtime._ends, inputs=inputs)
        return runtime


class SwappedInputsPipedream(_Entering, PipeDreamWorker):
    """Ours."""

    change = staticmethod(swapped)


class SwappedInputsTorch(_Entering, TorchPipelineWorker):
    """Torch's."""

    change = staticmethod(swapped)


class MaskOfAnotherPipedream(_Entering, PipeDreamWorker):
    """Ours."""

    change = staticmethod(of_another)


class MaskOfAnotherTorch(_Entering, TorchPipelineWorker):
    """Torch's."""

    change = staticmethod(of_another)


class AuxiliaryGradientDroppedPipedream(PipeDreamWorker):
    """Ours."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        stage = runtime.stage
        if stage._loss is not None:
            stage._loss = without_auxiliary(stage._loss)
        return runtime


class AuxiliaryGradientDroppedTorch(TorchPipelineWorker):
    """Torch's."""

    def _assembled(self, *arguments: Any) -> TorchRuntime:
        runtime = super()._assembled(*arguments)
        runtime._loss = without_auxiliary(runtime._loss)
        return runtime
