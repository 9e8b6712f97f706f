"""Training loops written by hand, for torchrun and horovodrun, as the documentation of torch and of
Horovod writes them: the other side of by_hand.py and ddp.py.

Prints a JSON line on rank 0: samples per second of the job, processor seconds of a step on all
ranks together, and when the first step was complete.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import pipelining
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images

TOKENS = ("pytest_dnnbench.rank.workloads.gpt:", "pytest_dnnbench.rank.workloads.llama:")
"""How the names of models of tokens begin."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets."""


@dataclass(frozen=True)
class Task:
    """What is trained, as its author would write it: a fresh model, a minibatch of so many samples,
    the loss, the optimiser, and the norm that gradients are clipped at (0: they are not)."""

    model: Callable[[], nn.Module]
    batch: Callable[[int], Pair]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    clip_norm: float = 0.0
    samples: Callable[[torch.Tensor], int] = len


@dataclass(frozen=True)
class Loop:
    """What a rank trains: its module, one forward and backward pass over a minibatch, its
    optimiser. `shares` is in how many parts the job's samples come."""

    module: nn.Module
    forward_backward: Callable[[Pair], None]
    optimizer: torch.optim.Optimizer
    shares: int


@dataclass(frozen=True)
class Ranks:
    """The group of this rank, torch's or Horovod's."""

    rank: int
    size: int
    device: torch.device
    barrier: Callable[[], object]
    gather: Callable[[torch.Tensor], torch.Tensor]


def images(settings: argparse.Namespace) -> Task:
    """A classifier of images, trained by SGD."""

    def batch(size: int) -> Pair:
        return example_images(settings.image_size, size), torch.randint(10, (size,))

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    return Task(
        partial(build_model, settings.model, settings.image_size), batch, cross_entropy, optimizer
    )


def tokens(settings: argparse.Namespace) -> Task:
    """A language model, trained by AdamW at nanoGPT's settings."""
    module, _, factory = settings.model.partition(":")
    sizes = getattr(importlib.import_module(module), factory)()

    def batch(size: int) -> Pair:
        text = torch.randint(sizes.vocabulary, (size, sizes.sequence_length + 1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits.flatten(0, 1), targets.flatten())

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        decays = [each for each in model.parameters() if each.dim() > 1]
        others = [each for each in model.parameters() if each.dim() <= 1]
        groups = [
            {"params": decays, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95))

    return Task(sizes.model, batch, loss, optimizer, clip_norm=1.0, samples=torch.Tensor.numel)


def single(settings: argparse.Namespace, task: Task, ranks: Ranks) -> Loop:
    """Plain PyTorch."""
    model = task.model().to(ranks.device)
    return Loop(model, partial(_pass, task, model), task.optimizer(model), 1)


def ddp(settings: argparse.Namespace, task: Task, ranks: Ranks) -> Loop:
    """DistributedDataParallel with its defaults."""
    module = task.model().to(ranks.device)
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    model = DistributedDataParallel(module, devices)
    return Loop(model, partial(_pass, task, model), task.optimizer(model), ranks.size)


def horovod(settings: argparse.Namespace, task: Task, ranks: Ranks) -> Loop:
    """Horovod's "PyTorch" page: an optimiser that averages, weights of rank 0."""
    import horovod.torch as hvd

    model = task.model().to(ranks.device)
    optimizer = hvd.DistributedOptimizer(
        task.optimizer(model), named_parameters=model.named_parameters()
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    return Loop(model, partial(_pass, task, model), optimizer, ranks.size)


def fsdp(settings: argparse.Namespace, task: Task, ranks: Ranks) -> Loop:
    """FSDP2: the blocks of `--wrap` one by one, then the root."""
    model = task.model().to(ranks.device)
    for name in filter(None, settings.wrap.split(",")):
        fully_shard(model.get_submodule(name))
    fully_shard(model)
    return Loop(model, partial(_pass, task, model), task.optimizer(model), ranks.size)


def tp(settings: argparse.Namespace, task: Task, ranks: Ranks) -> Loop:
    """Tensor parallelism: the layers of `--split`, by column or by row. All ranks train on the same
    samples."""
    model = task.model().to(ranks.device)
    styles = {"column": ColwiseParallel, "row": RowwiseParallel}
    plan = {name: styles[way]() for name, way in json.loads(settings.split).items()}
    parallelize_module(model, init_device_mesh(ranks.device.type, (ranks.size,)), plan)
    return Loop(model, partial(_pass, task, model), task.optimizer(model), 1)


def _pass(task: Task, model: nn.Module, batch: Pair) -> None:
    inputs, targets = batch
    task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call] # torch's gap


class OneTensor(nn.Module):
    """The last stage as torch's schedules want it."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The logits."""
        logits: torch.Tensor = self.stage(*inputs)[0]
        return logits


class Copied(nn.Module):
    """A stage whose backward pass comes in two halves. torch detaches in place what it returns, and
    refuses what an operator has saved, as a ReLU does its output: so it returns copies."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As the stage."""
        return tuple(output.clone() for output in self.stage(*inputs))


HALVES = ("ScheduleInterleavedZeroBubble", "ScheduleZBVZeroBubble", "ScheduleDualPipeV")
"""Schedules that run the backward pass in two halves."""


def pipeline(settings: argparse.Namespace, task: Task, ranks: Ranks) -> Loop:
    """A schedule of torch. `--cuts` has the operators of each stage, `--placed` the stages of each
    rank."""
    groups = [tuple(names) for names in json.loads(settings.cuts)]
    own: list[int] = json.loads(settings.placed)[ranks.rank]
    example = example_images(settings.image_size, 2)
    parts: list[nn.Module] = list(cut(task.model(), example, groups))
    last = len(parts) - 1
    if settings.loop in HALVES:
        parts[:last] = map(Copied, parts[:last])
    parts[last] = OneTensor(parts[last])
    modules = nn.ModuleList(parts[number] for number in own).to(ranks.device)
    stages = [
        pipelining.PipelineStage(module, number, len(parts), ranks.device)
        for number, module in zip(own, modules, strict=True)
    ]
    kind: Any = getattr(pipelining, settings.loop)
    takes_one = not issubclass(kind, pipelining.schedules.PipelineScheduleMulti)
    given = stages[0] if takes_one else stages
    schedule = kind(given, settings.microbatches, loss_fn=task.loss)

    def step(batch: Pair) -> None:
        inputs = (batch[0],) if 0 in own else ()
        asked = {"target": batch[1], "losses": []} if last in own else {}
        schedule.step(*inputs, **asked)

    return Loop(modules, step, task.optimizer(modules), 1)


def clip(module: nn.Module, clip_norm: float) -> None:
    """torch's function, which takes weights that are all split alike, or all whole; under tensor
    parallelism some are whole."""
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    if len({isinstance(gradient, DTensor) for gradient in gradients}) == 1:
        nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        return
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    factor = (clip_norm / (torch.linalg.vector_norm(torch.stack(whole)) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(factor)


LOOPS: dict[str, Callable[[argparse.Namespace, Task, Ranks], Loop]] = {
    "single": single,
    "ddp": ddp,
    "horovod": horovod,
    "fsdp": fsdp,
    "tp": tp,
}
"""By `--loop`; any other is the class of a schedule."""


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="ddp", help="of LOOPS, or a schedule's class in torch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="torchvision.models:resnet18")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--wrap", default="")
    parser.add_argument("--split", default="{}")
    parser.add_argument("--cuts", default="")
    parser.add_argument("--placed", default="")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    return parser.parse_args()


def _joined(settings: argparse.Namespace) -> Ranks:
    """This rank's group and device, with its threads."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if settings.loop == "horovod":
        import horovod.torch as hvd

        hvd.init()
        cpu = torch.device("cpu")
        return Ranks(hvd.rank(), hvd.size(), cpu, hvd.barrier, hvd.allgather)
    is_cuda = settings.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # as our fp32
    dist.init_process_group("nccl" if is_cuda else "gloo", device_id=device if is_cuda else None)

    def gather(figures: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(figures) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, figures)
        return torch.cat(parts)

    return Ranks(dist.get_rank(), dist.get_world_size(), device, dist.barrier, gather)


def _settled_s(device: torch.device) -> float:
    """The time once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def _figures(settings: argparse.Namespace, ranks: Ranks) -> dict[str, float]:
    """Trains; the figures of the job."""
    device = ranks.device
    task = (tokens if settings.model.startswith(TOKENS) else images)(settings)
    make = LOOPS.get(settings.loop, pipeline)
    # Copies of the model become equal to rank 0's; parts of it come from the same numbers.
    torch.manual_seed(ranks.rank if settings.loop in ("ddp", "fsdp", "horovod") else 0)
    loop = make(settings, task, ranks)
    size = settings.batch_size * settings.microbatches
    batches = [tuple(each.to(device) for each in task.batch(size)) for _ in range(4)]
    first_step_at_s = start = work = 0.0
    for index in range(settings.warmup + settings.steps):
        if index == settings.warmup:
            _settled_s(device)
            ranks.barrier()
            start, work = _settled_s(device), time.process_time()
        inputs, targets = batches[index % len(batches)]
        loop.optimizer.zero_grad()
        loop.forward_backward((inputs, targets))
        if task.clip_norm:
            clip(loop.module, task.clip_norm)
        loop.optimizer.step()
        first_step_at_s = first_step_at_s or _settled_s(device)
    wall_s, cpu_s = _settled_s(device) - start, time.process_time() - work
    own = torch.tensor([[wall_s, cpu_s]], dtype=torch.float64, device=device)
    walls, works = ranks.gather(own).T
    return {
        "rate": task.samples(batches[0][0]) * settings.steps * loop.shares / float(walls.max()),
        "cpu_s": float(works.sum()) / settings.steps,
        "first_step_at_s": first_step_at_s,
    }


def main() -> None:
    """Trains and prints."""
    settings = _settings()
    ranks = _joined(settings)
    figures = _figures(settings, ranks)
    if ranks.rank == 0:
        print(json.dumps(figures), flush=True)
    ranks.barrier()
    sys.stdout.flush()
    # Destroying gloo's group sometimes hangs, and leaving that to Python sometimes aborts.
    os._exit(0)


if __name__ == "__main__":
    main()
