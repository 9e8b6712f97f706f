"""Models small enough for tests. The package treats them as a user's own factories."""

import torch
from torch import nn

from pytest_dnnbench.rank.workloads.torchvision_ops import load_torchvision


def tiny(channels: int = 1, classes: int = 10) -> nn.Module:
    """Convolution, BatchNorm, dropout, linear: all that makes a data-parallel step hard to get
    right."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, classes),
    )


def deep(channels: int = 1, classes: int = 10) -> nn.Module:
    """Three blocks of several layers each, and a head."""

    def block(inputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.1)
        )

    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes))
    return nn.Sequential(block(channels), block(4), block(4), head)


def vit(channels: int = 1, classes: int = 10) -> nn.Module:
    """torchvision's ViT of two blocks with four heads."""
    make = load_torchvision().models.VisionTransformer
    model: nn.Module = make(28, 14, 2, 4, 16, 32, num_classes=classes)
    model.conv_proj = nn.Conv2d(channels, 16, 14, 14)
    return model


def swin(channels: int = 1, classes: int = 10) -> nn.Module:
    """torchvision's Swin Transformer of two blocks."""
    make = load_torchvision().models.SwinTransformer
    model: nn.Module = make([4, 4], 8, [1, 1], [2, 4], [7, 7], num_classes=classes)
    model.set_submodule("features.0.0", nn.Conv2d(channels, 8, 4, 4))
    return model


def windows(channels: int = 1, classes: int = 10, version: int = 1) -> nn.Module:
    """torchvision's Swin Transformer of two blocks with four heads, on windows of 4 x 2 pixels: an
    image of 7 x 7 is padded, and shifted in its second block."""
    swin = load_torchvision().models.swin_transformer
    second = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    kinds = second if version == 2 else {}
    model: nn.Module = swin.SwinTransformer(
        [4, 4],
        8,
        [2],
        [4],
        [4, 2],
        dropout=0.1,
        attention_dropout=0.1,
        num_classes=classes,
        **kinds,
    )
    model.set_submodule("features.0.0", nn.Conv2d(channels, 8, 4, 4))
    return model


def windows_v2(channels: int = 1, classes: int = 10) -> nn.Module:
    """As `windows`, of Swin's second version."""
    return windows(channels, classes, version=2)


def maxvit(channels: int = 1, classes: int = 10) -> nn.Module:
    """torchvision's MaxViT of one block: convolutions, windows and a grid, of four heads each."""
    made = load_torchvision().models.MaxVit((28, 28), 4, 7, [8], [1], 2, 0.0, num_classes=classes)
    model: nn.Module = made
    model.set_submodule("stem.0.0", nn.Conv2d(channels, 4, 3, 2, 1, bias=False))
    return model


class Diverging(nn.Module):
    """Its loss is not a number from the sixth step in single precision on: no proof goes so far."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, which are numbers at first."""
        logits: torch.Tensor = self.linear(images.flatten(1))
        self.steps += images.dtype == torch.float32
        return logits * float("nan") if self.steps > 5 else logits
