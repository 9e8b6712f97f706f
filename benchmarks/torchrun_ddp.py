"""A DistributedDataParallel training loop written by hand, for torchrun. The other side of ddp.py.

Prints one JSON line on rank 0: images per second of the job, and when the first step was complete.
"""

import argparse
import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pytest_dnnbench.rank.models import build_model


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="torchvision.models:resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    settings = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(dist.get_rank())
    model = DistributedDataParallel(build_model(settings.model, 28))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = [
        (torch.randn(settings.batch_size, 1, 28, 28), torch.randint(10, (settings.batch_size,)))
        for _ in range(4)
    ]
    first_step_at_s = start = 0.0
    for index in range(settings.warmup + settings.steps):
        if index == settings.warmup:
            dist.barrier()
            start = time.monotonic()
        images, labels = batches[index % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        optimizer.step()
        first_step_at_s = first_step_at_s or time.monotonic()
    wall = torch.tensor(time.monotonic() - start, dtype=torch.float64)
    dist.all_reduce(wall, op=dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        images_done = settings.batch_size * settings.steps * dist.get_world_size()
        rate = images_done / float(wall)
        print(json.dumps({"img_s": rate, "first_step_at_s": first_step_at_s}))
    dist.barrier()
    sys.stdout.flush()
    # Destroying gloo's group sometimes hangs, and leaving that to Python sometimes aborts.
    os._exit(0)


if __name__ == "__main__":
    main()
