"""Training loops written by hand, for torchrun: DistributedDataParallel, fully_shard, and a
schedule of torch.distributed.pipelining. The other side of by_hand.py and ddp.py.

Prints one JSON line on rank 0: images per second of the job, processor seconds of a step on all
ranks together, and when the first step was complete.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import pipelining
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images

Images = tuple[torch.Tensor, torch.Tensor]
Loop = tuple[nn.Module, Callable[[Images], None]]
"""What a rank trains, and one forward and backward pass over a minibatch."""


def ddp(settings: argparse.Namespace, device: torch.device) -> Loop:
    """DistributedDataParallel with its defaults."""
    module = build_model(settings.model, settings.image_size).to(device)
    model = DistributedDataParallel(module, [device] if device.type == "cuda" else None)
    return model, lambda batch: _pass(model, batch)


def fsdp(settings: argparse.Namespace, device: torch.device) -> Loop:
    """FSDP2: the blocks of `--wrap` one by one, then the root."""
    model = build_model(settings.model, settings.image_size).to(device)
    for name in filter(None, settings.wrap.split(",")):
        fully_shard(model.get_submodule(name))
    fully_shard(model)
    return model, lambda batch: _pass(model, batch)


def _pass(model: nn.Module, batch: Images) -> None:
    images, labels = batch
    cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call] # torch's gap


class OneTensor(nn.Module):
    """The last stage as torch's schedules want it."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The logits."""
        logits: torch.Tensor = self.stage(*inputs)[0]
        return logits


def pipeline(settings: argparse.Namespace, device: torch.device) -> Loop:
    """A schedule of torch over one stage per rank. `--cuts` has the operators of each stage."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    groups = [tuple(names) for names in json.loads(settings.cuts)]
    example = example_images(settings.image_size, 2)
    own: nn.Module = list(cut(build_model(settings.model, settings.image_size), example, groups))[
        rank
    ]
    is_last = rank == ranks - 1
    module = (OneTensor(own) if is_last else own).to(device)
    stage = pipelining.PipelineStage(module, rank, ranks, device)
    kind = getattr(pipelining, settings.loop)
    schedule = kind(stage, settings.microbatches, loss_fn=cross_entropy)

    def step(batch: Images) -> None:
        images, labels = batch
        inputs = (images,) if rank == 0 else ()
        schedule.step(*inputs, target=labels if is_last else None, losses=[] if is_last else None)

    return module, step


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="ddp", help="ddp, fsdp, or a schedule's class in torch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="torchvision.models:resnet18")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--wrap", default="")
    parser.add_argument("--cuts", default="")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    return parser.parse_args()


def _device(settings: argparse.Namespace) -> torch.device:
    """This rank's device, in its process group, with its threads and its seed."""
    is_cuda = settings.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # as our fp32
    dist.init_process_group("nccl" if is_cuda else "gloo", device_id=device if is_cuda else None)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(dist.get_rank() if settings.loop in ("ddp", "fsdp") else 0)
    return device


def _settled_s(device: torch.device) -> float:
    """The time once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def _figures(settings: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Trains; the figures of the job."""
    make = {"ddp": ddp, "fsdp": fsdp}.get(settings.loop, pipeline)
    model, forward_backward = make(settings, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    size = settings.batch_size * settings.microbatches
    batches = [
        (
            example_images(settings.image_size, size).to(device),
            torch.randint(10, (size,), device=device),
        )
        for _ in range(4)
    ]
    first_step_at_s = start = work = 0.0
    for index in range(settings.warmup + settings.steps):
        if index == settings.warmup:
            _settled_s(device)
            dist.barrier()
            start, work = _settled_s(device), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        forward_backward(batches[index % len(batches)])
        optimizer.step()
        first_step_at_s = first_step_at_s or _settled_s(device)
    wall = torch.tensor(_settled_s(device) - start, dtype=torch.float64, device=device)
    cpu = torch.tensor(time.process_time() - work, dtype=torch.float64, device=device)
    dist.all_reduce(wall, op=dist.ReduceOp.MAX)
    dist.all_reduce(cpu)
    shares = dist.get_world_size() if settings.loop in ("ddp", "fsdp") else 1
    return {
        "img_s": size * settings.steps * shares / float(wall),
        "cpu_s": float(cpu) / settings.steps,
        "first_step_at_s": first_step_at_s,
    }


def main() -> None:
    """Trains and prints."""
    settings = _settings()
    figures = _figures(settings, _device(settings))
    if dist.get_rank() == 0:
        print(json.dumps(figures))
    dist.barrier()
    sys.stdout.flush()
    # Destroying gloo's group sometimes hangs, and leaving that to Python sometimes aborts.
    os._exit(0)


if __name__ == "__main__":
    main()
