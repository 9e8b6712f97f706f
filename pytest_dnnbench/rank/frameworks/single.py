"""`single`: plain PyTorch on one device, nothing between the model and its optimiser."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.own_work import OwnWork
from pytest_dnnbench.rank.step_graph import (
    EAGER,
    Capturing,
    CudaCapturing,
    StepGraph,
    check_capturable,
)
from pytest_dnnbench.rank.stopwatch import HostStopwatch
from pytest_dnnbench.rank.workloads.structure import mapped
from pytest_dnnbench.rank.workloads.workload import Batch


class SingleWorker(DataParallelWorker):
    """One rank, in no group; its step is captured as a CUDA graph where the case says so."""

    graph: StepGraph | None = None
    """Of the step of the model that is built; None: the step runs as it is written."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        if self.case.form.cuda_graph:
            # Nobody waits for this rank, and events of its marks would be captured too.
            self.own_work = OwnWork(HostStopwatch())

    def connect(self) -> None:
        """There is no other rank to join."""

    def align(self) -> None:
        """There is no other rank to wait for."""

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Both unchanged."""
        return module, optimizer

    def capturing(self) -> Capturing:
        """What captures this rank's step."""
        return CudaCapturing(self.device)

    def give_up(self) -> None:
        """As DataParallelWorker.give_up. A graph holds the memory of a step."""
        self.graph = None
        super().give_up()

    def _build(self, *, wide: bool) -> None:
        super()._build(wide=wide)
        if not self.case.form.cuda_graph:
            return
        check_capturable(self.rule)
        train = self.case.phase == "train"
        self.graph = StepGraph(
            self.capturing(),
            super().train_step if train else super().validate_step,
            name=self.case.model,
            parameters=self.module.parameters() if train else (),
            # In float64 the proof's own first step goes before the capture, and no other.
            eager=1 if wide else EAGER,
        )

    def train_step(self, minibatches: Sequence[Batch]) -> torch.Tensor:
        """As DataParallelWorker.train_step."""
        if self.graph is None:
            return super().train_step(minibatches)
        loss: torch.Tensor = self.graph.run(list(minibatches))
        return loss

    def validate_step(self, batch: Batch) -> torch.Tensor:
        """As DataParallelWorker.validate_step."""
        if self.graph is None:
            return super().validate_step(batch)
        loss: torch.Tensor = self.graph.run(batch)
        return loss

    def rehearse(self, minibatches: Sequence[Batch]) -> None:
        """As DataParallelWorker.rehearse: the next step is the one that is captured. Of the steps
        until then nothing is left but the optimiser's state."""
        if self.graph is None:
            return
        buffers = Buffers(self.module).tensors()
        held = [*self.module.parameters(), *buffers]
        with torch.no_grad():
            before = [tensor.clone() for tensor in held]
        for _ in range(EAGER):
            self.train_step(minibatches)
        with torch.no_grad():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)

    def evaluate(self, batch: Batch) -> Any:
        """As DataParallelWorker.evaluate: captured on inputs of zeros, so that a graph which does
        not take in the real ones is noticed."""
        if self.graph is None:
            return super().evaluate(batch)
        captured = StepGraph(self.capturing(), super().evaluate, name=self.case.model, eager=EAGER)
        zeros = mapped(batch, torch.zeros_like)
        for _ in range(EAGER + 1):
            captured.run(zeros)
        return captured.run(batch)

    def metrics(self) -> dict[str, float]:
        """As Worker.metrics. A replay allocates nothing, so the peak is that of the capture."""
        peak = self.graph.peak_bytes if self.graph else None
        return super().metrics() | ({} if peak is None else {"allocated_peak_bytes": peak})
