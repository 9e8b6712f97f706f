"""A training loop as people write it, beside pytest-dnnbench: the other side of gpu_parity.py.

Imports, says `ready`, waits for a line, trains, and prints one line of JSON. Nothing touches the
GPU before the line has come.
"""

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.rank.workloads.torchvision_ops import load_torchvision

Images = tuple[torch.Tensor, torch.Tensor]
"""A minibatch: images and labels."""

WARM_S = 2.0
"""How long it warms up: a GPU's clock takes a while to come up."""


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="module:factory")
    parser.add_argument("--device", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--image", type=int, nargs=2, required=True, help="channels and side")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--window", type=float, required=True, help="seconds")
    return parser.parse_args()


def main() -> None:
    """Trains and prints img/s."""
    settings = _settings()
    load_torchvision()  # also where its compiled operators do not load
    module, _, name = settings.model.partition(":")
    factory = getattr(importlib.import_module(module), name)
    print("ready", flush=True)
    input()

    device, (channels, _) = torch.device(settings.device), settings.image
    sizes = {} if module == "torchvision.models" else {"channels": channels}
    key = "num_classes" if module == "torchvision.models" else "classes"
    model = factory(**sizes, **{key: settings.classes})
    model = model.to(device).to(memory_format=torch.channels_last).train()
    train = _training(model, _batches(settings, device), device)
    train(3)
    pace_s = train(5) / 5
    warm_s = min(WARM_S, settings.window)
    steps = max(1, math.ceil(warm_s / pace_s))
    pace_s = train(steps) / steps
    steps = max(1, math.ceil(settings.window / pace_s))
    rate = steps * settings.batch_size / train(steps)
    print(json.dumps({"img_s": rate, "steps": steps}), flush=True)


def _batches(settings: argparse.Namespace, device: torch.device) -> list[Images]:
    (channels, side), size = settings.image, settings.batch_size
    return [
        (
            torch.randn(size, channels, side, side, device=device).contiguous(
                memory_format=torch.channels_last
            ),
            torch.randint(settings.classes, (size,), device=device),
        )
        for _ in range(4)
    ]


def _training(
    model: nn.Module, batches: Sequence[Images], device: torch.device
) -> Callable[[int], float]:
    """The loop: trains so many steps, and returns how many seconds they took."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

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

    return train


if __name__ == "__main__":
    main()
