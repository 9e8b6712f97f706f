"""A training loop as people write it, beside pytest-dnnbench: the other side of gpu_parity.py.

Imports, says `ready`, waits for a line, trains, and prints one line of JSON. Nothing touches the
GPU before the line has come.
"""

import argparse
import importlib
import json
import math
import time

import torch
from torch.nn.functional import cross_entropy

from pytest_dnnbench.rank.torchvision_ops import load_torchvision

WARM_S = 2.0
"""How long it warms up: a GPU's clock takes a while to come up."""


def main() -> None:
    """Trains and prints img/s."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="module:factory")
    parser.add_argument("--device", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--image", type=int, nargs=2, required=True, help="channels and side")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--window", type=float, required=True, help="seconds")
    given = parser.parse_args()
    load_torchvision()  # also where its compiled operators do not load
    module, _, name = given.model.partition(":")
    factory = getattr(importlib.import_module(module), name)
    print("ready", flush=True)
    input()

    device, (channels, side) = torch.device(given.device), given.image
    sizes = {} if module == "torchvision.models" else {"channels": channels}
    key = "num_classes" if module == "torchvision.models" else "classes"
    model = factory(**sizes, **{key: given.classes})
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = [
        (
            torch.randn(given.batch_size, channels, side, side, device=device).contiguous(
                memory_format=torch.channels_last
            ),
            torch.randint(given.classes, (given.batch_size,), device=device),
        )
        for _ in range(4)
    ]

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def train(steps: int) -> float:
        settle()
        start_s = time.perf_counter()
        for step in range(steps):
            images, labels = batches[step % len(batches)]
            optimiser.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call] # torch's gap
            optimiser.step()
        settle()
        return time.perf_counter() - start_s

    train(3)
    pace_s = train(5) / 5
    warm_s = min(WARM_S, given.window)
    steps = max(1, math.ceil(warm_s / pace_s))
    pace_s = train(steps) / steps
    steps = max(1, math.ceil(given.window / pace_s))
    seconds = train(steps)
    print(json.dumps({"img_s": steps * given.batch_size / seconds, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
