"""Image classifiers: torchvision's, or any module of the user's that takes images and returns
logits. Their images are MNIST's or synthetic.

Not here: how a module is built in the form of the images (image_models.py), MNIST's files
(mnist.py).
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import Scalar, image_form
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.mnist_files import MnistFiles
from pytest_dnnbench.rank.proof.lone_forward import logits_of
from pytest_dnnbench.rank.workloads import mnist
from pytest_dnnbench.rank.workloads.image_models import build_model
from pytest_dnnbench.rank.workloads.transformer_split import transformer_split
from pytest_dnnbench.rank.workloads.workload import Batch, Context, DataShare, Workload

VALIDATION_IMAGES = 256
"""In the minibatches of the final validation."""

SMALL_IMAGE = 64
"""Pixels a side from which on torchvision's classifiers leave several: they halve an image five
times."""


class ImageWorkload(Workload):
    """The classifier of "module:factory" on square images of a size, in the form of that size."""

    sample: Sample = "img"
    output_name = "logits"

    def __init__(self, target: str, image_size: int, files: MnistFiles | None = None) -> None:
        self.target = target
        self.image_size = image_size
        self.files = files
        self.channels, self.classes = image_form(image_size)
        # Of a small image, models leave one value a channel for batch normalisation.
        self.proof_size = 4 if image_size < SMALL_IMAGE else 2

    def model(self) -> nn.Module:
        """As Workload.model, in training mode."""
        return build_model(self.target, self.image_size)

    def batch(self, size: int) -> Batch:
        """Standard normal images, (size, channels, side, side) of float32, and uniform labels,
        (size,)."""
        images = torch.randn(size, self.channels, self.image_size, self.image_size)
        return images, torch.randint(self.classes, (size,))

    def batch_on(self, size: int, device: torch.device) -> Batch:
        """As Workload.batch_on: drawn by a GPU for a GPU. The host would need much of a launch's
        start for images of 224 pixels."""
        if device.type == "cpu" or type(self).batch is not ImageWorkload.batch:
            return self.batch(size)
        with device:
            return self.batch(size)

    def loss(self, output: object, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy. Raises UsageError for a model that returns anything but logits."""
        return cross_entropy(logits_of(output), targets)

    def blocks(self, model: nn.Module) -> list[str]:
        """As Workload.blocks, with the parts of a Sequential in its place, however deep: a ResNet's
        residual blocks, and not its four layers, whose first holds half of the activations."""
        names = _within("", model)
        return [name for name in names if any(True for _ in model.get_submodule(name).parameters())]

    def split(self, model: nn.Module, ranks: int) -> dict[str, str]:
        """Feed-forwards and attention of a transformer; empty for one of convolutions."""
        return transformer_split(model, ranks)

    def batches(self, share: DataShare) -> Iterator[Batch] | None:
        """MNIST's images, where the session has them."""
        return mnist.mnist_batches(self.files, share) if self.files else None

    def data_facts(self) -> dict[str, Scalar]:
        """Source and split of the images."""
        if self.files is None:
            return {"source": "synthetic"}
        return {"source": "mnist", "split": self.files.split}

    def validate(
        self, model: nn.Module, device: torch.device, context: Context
    ) -> tuple[int, int] | None:
        """Right answers on MNIST's validation set."""
        if self.files is None:
            return None
        digits, right = mnist.Digits(self.files, "validate"), 0
        for images, labels in zip(
            torch.split(digits.images, VALIDATION_IMAGES),
            torch.split(digits.labels, VALIDATION_IMAGES),
            strict=True,
        ):
            with context:
                guess = model(images.to(device)).argmax(1)
            right += int((guess == labels.to(device)).sum())
        return right, len(digits)


def _within(prefix: str, module: nn.Module) -> Iterator[str]:
    """The names of a module's parts, in their order. A Sequential of single layers is one part, and
    so is a subclass, as torchvision's Conv2dNormActivation."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if type(child) is nn.Sequential and any(part._modules for part in child):
            yield from _within(f"{path}.", child)
        else:
            yield path
