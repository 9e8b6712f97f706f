"""Horovod's published synthetic benchmark, written by hand, for horovodrun. The other side of
horovod_protocol.py.

The protocol (Horovod's documentation, "Benchmarks"): random images, made once; 10 warm-up batches;
10 iterations of 10 batches each, timed one by one; a rank's rate is batch size x batches / time,
the job's their mean times the ranks. Prints one JSON line on rank 0.
"""

import argparse
import json
import os
import statistics
import timeit

import horovod.torch as hvd
import torch
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import image_form
from pytest_dnnbench.rank.workloads.image_models import build_model


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--batches", type=int, required=True)
    settings = parser.parse_args()
    hvd.init()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = build_model(settings.model, settings.image_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    channels, classes = image_form(settings.image_size)
    images = torch.randn(settings.batch_size, channels, settings.image_size, settings.image_size)
    labels = torch.randint(classes, (settings.batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        optimizer.step()

    timeit.timeit(step, number=settings.warmup)
    rates = [
        settings.batch_size * settings.batches / timeit.timeit(step, number=settings.batches)
        for _ in range(settings.iterations)
    ]
    if hvd.rank() == 0:
        print(json.dumps({"img_s": statistics.mean(rates) * hvd.size()}), flush=True)
    hvd.shutdown()


if __name__ == "__main__":
    main()
