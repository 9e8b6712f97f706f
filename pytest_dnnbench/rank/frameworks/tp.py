"""`tp`: torch.distributed.tensor.parallel (Shoeybi et al., "Megatron-LM", 2019). Pairs of linear
layers are split among ranks, the first by its outputs and the second by its inputs; the ranks that
share a layer train on the same samples.

                      ┌─ column: its heads, its inner features ─ row ─┐
    samples of all ──>│                                               │── added ──> next pair
                      └─ the same of another rank ────────────────────┘

With the sequence shared out too (Korthikanti et al., "Reducing Activation Recomputation", 2022),
what lies between the pairs runs on a rank's part of the sequence: it is gathered before a pair, and
what would be added for all is added part by part.

On a mesh of replicas x ranks, each row of ranks splits the layers, and the replicas of a part share
it out among themselves (fsdp.py), or hold copies whose gradients are averaged.

Not here: which layers a workload can split, and where its sequence is whole
(workloads/workload.py); how attention is split by heads (attention_split.py).
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.attention_split import HeadsParallel, can_split_heads, shard_packed
from pytest_dnnbench.rank.block_trial import copy_outputs
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.fsdp import RESHARD, shard_blocks
from pytest_dnnbench.rank.frameworks.held_bytes import held_bytes
from pytest_dnnbench.rank.fused_parts import update_parts
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean
from pytest_dnnbench.rank.whole import part
from pytest_dnnbench.rank.worker import Step
from pytest_dnnbench.rank.workloads.image_models import seed

PART = Shard(1)
"""A rank's part of the sequence, of a tensor (batch, sequence, ...)."""

SPLITS: dict[str, Callable[[bool], ParallelStyle]] = {
    "column": lambda shared: ColwiseParallel(),
    "heads": lambda shared: HeadsParallel(),
    "row": lambda shared: RowwiseParallel(output_layouts=PART if shared else Replicate()),
}
"""By the word in Workload.split: the style of a layer, where the sequence is shared out or not."""

SEQUENCE_WAYS = ("cut", "part", "whole")
"""The words of Workload.sequence."""


class TpWorker(DataParallelWorker):
    """Holds its part of every layer that is split, and the whole of all others, unless the replicas
    share those out."""

    runs_alone = False

    axes = ("dp", "tp")
    """Names of the mesh's dimensions."""

    def __init__(self, place: Place, request: RunRequest) -> None:
        super().__init__(place, request)
        options = request.case.options
        self.width = int(options.get("ranks", 0)) or place.world_size
        self.replicas = place.world_size // self.width
        self.shares_out = self.replicas > 1 and options.get("replicas", "fsdp") == "fsdp"
        self.wraps_blocks = self.shares_out
        self.shares_sequence = bool(options.get("sequence", False))
        self.reshard = RESHARD[str(options.get("reshard", "auto"))]
        if self.device.type == "cuda":
            # A layer that all ranks hold whole gets its gradients on each of them, which must be
            # the same to the last bit; some of cuDNN's algorithms sum in an order of chance.
            torch.backends.cudnn.deterministic = True
        self.split: dict[str, str] = {}
        self.wrapped: list[str] = []
        self._mean: GradientMean | None = None

    @property
    def shards(self) -> int:
        """Each replica has its samples."""
        return self.replicas

    @property
    def shard(self) -> int:
        """That of this rank's replica: ranks that split layers together have successive numbers."""
        return self.place.rank // self.width

    @property
    def shard_size(self) -> int:
        """As many samples as the replica's ranks have together in a data-parallel step."""
        return self.case.batch_size * self.width

    @cached_property
    def mesh(self) -> DeviceMesh:
        """Replicas by ranks that split layers together; without replicas, those ranks alone.

        Its groups are made here. Left to itself, torch splits the default group, which some
        versions cannot where it has a backend for each kind of device (pytorch issue 159200).
        """
        kind = self.device.type
        if self.replicas == 1:
            everyone = dist.group.WORLD
            assert everyone is not None, "the ranks have joined it"
            return DeviceMesh.from_group(everyone, kind, mesh_dim_names=self.axes[1:])
        ranks = torch.arange(self.place.world_size).view(self.replicas, self.width)
        groups = [self._own_group(rows.tolist()) for rows in (ranks.t(), ranks)]
        return DeviceMesh.from_group(groups, kind, mesh=ranks, mesh_dim_names=self.axes)

    def _own_group(self, sets: Sequence[list[int]]) -> dist.ProcessGroup:
        """The group of this rank, of those that all ranks make together: each rank is in one."""
        limit = timedelta(seconds=self.place.timeout_s)
        # Every rank must take part in making every group, its own or not: that is torch's rule.
        groups = [(ranks, dist.new_group(ranks, timeout=limit)) for ranks in sets]
        (mine,) = (group for ranks, group in groups if self.place.rank in ranks)
        assert mine is not None
        return mine  # type: ignore[no-any-return] # torch's gap

    def replaced_layers(self) -> Sequence[str]:
        """Those that are split, and the parts between which the sequence is shared out."""
        self.split = self.workload.split(self.module, self.width)
        _check(self.module, self.split, self.width)
        if not self.shares_sequence:
            return [*self.split]
        ways = self.workload.sequence(self.module, self.width)
        _check_sequence(self.module, ways, self.split)
        return [*self.split, *ways]

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module with its layers split, and an optimiser of the parts."""
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        plan = {name: SPLITS[way](self.shares_sequence) for name, way in self.split.items()}
        if self.shares_sequence:
            plan |= self._sequence_plan(module)
        parallelize_module(module, self.mesh[self.axes[1]], plan)
        copy_outputs(module, self.rewritten)
        if self.shares_out:
            types = MixedPrecisionPolicy()
            self.wrapped = shard_blocks(
                module, self.units, self.mesh[self.axes[0]], self.reshard, types, shard_packed
            )
        elif self.replicas > 1:
            parts = [part(each.detach()) for each in module.parameters()]
            self._mean = GradientMean(parts, self.mesh[self.axes[0]].get_group(), self.replicas)
        # The ranks' layers wait for each other in every block.
        module.register_forward_pre_hook(lambda *_: self.own_work.together(), prepend=True)
        # Dropout between the pairs must hit the same elements on every rank of a replica, or the
        # weights that each of them holds would drift apart.
        seed(self.case.seed + self.shard)
        made = self.fresh_optimizer(module)
        return module, update_parts(made) if self.case.form.fused else _one_by_one(made)

    def _sequence_plan(self, module: nn.Module) -> dict[str, ParallelStyle]:
        """The styles of the parts between which the sequence is shared out."""
        ways = self.workload.sequence(module, self.width)
        for name, way in ways.items():
            if way == "cut":
                module.get_submodule(name).register_forward_pre_hook(self._check_length)
        columns = [name for name, way in self.split.items() if way == "column"]

        def style(name: str, way: str) -> ParallelStyle:
            if way == "part":
                return SequenceParallel(use_local_output=True)
            if way == "cut":
                return PrepareModuleInput(
                    input_layouts=Replicate(), desired_input_layouts=PART, use_local_output=True
                )
            # Column layers take a tensor that knows its layout: then the gradients that they send
            # back are added and shared out in one exchange.
            has_columns = any(f"{column}.".startswith(f"{name}.") for column in columns)
            return PrepareModuleInput(
                input_layouts=PART,
                desired_input_layouts=Replicate(),
                use_local_output=not has_columns,
            )

        return {name: style(name, way) for name, way in ways.items()}

    def _check_length(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        length = inputs[0].shape[1]
        if length % self.width:
            raise UsageError(
                f"--dnn-tp-sequence: a sequence of {length} cannot be shared evenly by {self.width}"
                f" ranks: give a length that {self.width} divides, as with --dnn-sequence-length"
            )

    def update(self) -> None:
        """As DataParallelWorker.update, after what the ranks and replicas have to add up."""
        self._add_up_parts()
        if self._mean is not None:
            self._average(self._mean)
        super().update()

    def _add_up_parts(self) -> None:
        """Adds up the gradients of weights that every rank has and uses on its part of the
        sequence: one exchange for each type."""
        partial: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in self.module.parameters():
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and any(p.is_partial() for p in gradient.placements):
                partial.setdefault(gradient.dtype, []).append(parameter)
        for parameters in partial.values():
            gradients = [part(each.grad).flatten() for each in parameters if each.grad is not None]
            flat = torch.cat(gradients)
            dist.all_reduce(flat, group=self.mesh[self.axes[1]].get_group())
            pieces = torch.split_with_sizes(flat, [each.numel() for each in gradients])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = DTensor.from_local(
                    piece.view(parameter.shape),
                    self.mesh[self.axes[1]],
                    [Replicate()],
                    run_check=False,
                )

    def _average(self, mean: GradientMean) -> None:
        """Averages gradients over the replicas, in one exchange."""
        gradients = [each.grad for each in self.module.parameters()]
        parts = [None if gradient is None else part(gradient) for gradient in gradients]
        mean.add(parts)
        for own, averaged in zip(parts, mean.take(self.replicas), strict=True):
            if own is not None and averaged is not None:
                own.copy_(averaged)

    def run(self, steps: int) -> Iterator[Step]:
        """As DataParallelWorker.run. The ranks of a replica have the same samples, and the first
        counts them."""
        for step in super().run(steps):
            counted = step.samples if self.place.rank % self.width == 0 else 0
            yield Step(step.index, counted, step.loss)

    @property
    def step_copies(self) -> float:
        """As DataParallelWorker.step_copies: a part of each weight."""
        return super().step_copies / self.place.world_size

    def metrics(self) -> dict[str, float]:
        """As Worker.metrics: what this rank holds between two steps."""
        return held_bytes([self.module], [self.optimizer])

    def details(self) -> dict[str, object]:
        """As Worker.details: which layers are split, and how; what the replicas share out."""
        ways = list(self.split.values())
        shared = {"wrapped": [*self.wrapped, "(root)"]} if self.shares_out else {}
        return {
            **super().details(),
            **{way: ways.count(way) for way in SPLITS},
            "tensor_parallel_ranks": self.width,
            "replicas": self.replicas,
            "sequence": self.shares_sequence,
            **shared,
        }


def _one_by_one(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser, which updates weight by weight unless the user says otherwise: torch's loops
    over all of them take parts or whole tensors, of one mesh, not both."""
    for group in optimiser.param_groups:
        if group.get("foreach", False) is None:
            group["foreach"] = False
    return optimiser


def _check(module: nn.Module, split: dict[str, str], ranks: int) -> None:
    """Raises UsageError for a model that cannot be split, and for a split that is none."""
    if not split:
        convolution = next(
            (name for name, part in module.named_modules() if "Conv" in type(part).__name__), None
        )
        why = (
            f"tensor parallelism splits the linear layers of transformers, and {convolution!r} is a"
            " convolution"
            if convolution
            else "the workload does not say which linear layers to split"
        )
        raise UsageError(
            f"{why}: use a transformer, as gpt-tiny or vit_b_16, or a workload with a method"
            " `split`"
        )
    for name, way in split.items():
        layer = _at(module, name)
        is_linear = way in ("column", "row") and isinstance(layer, nn.Linear | nn.Embedding)
        if not is_linear and not (way == "heads" and can_split_heads(layer, ranks)):
            raise UsageError(
                f"Workload.split has {name!r}: {way!r}: name linear layers or embeddings of the"
                " model, each with column or row, or self-attention of a number of heads that"
                f" {ranks} ranks divide, with heads"
            )


def _check_sequence(module: nn.Module, ways: dict[str, str], split: dict[str, str]) -> None:
    """Raises UsageError for a model whose sequence cannot be shared out, and for words that are
    none."""
    if not ways:
        raise UsageError(
            "--dnn-tp-sequence: the workload does not say where its sequence can be shared out: use"
            " a model of tokens, as gpt-tiny, or a workload with a method `sequence`"
        )
    if "heads" in split.values():
        raise UsageError(
            "--dnn-tp-sequence: attention that is split by heads gives back the whole of a"
            " sequence: leave the option out, or write attention with linear layers of its own"
        )
    for name, way in ways.items():
        if way not in SEQUENCE_WAYS or _at(module, name) is None:
            raise UsageError(
                f"Workload.sequence has {name!r}: {way!r}: name parts of the model, each with"
                f" {', '.join(SEQUENCE_WAYS[:-1])} or {SEQUENCE_WAYS[-1]}"
            )


def _at(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None
