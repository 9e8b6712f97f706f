"""Small models for pipelines, in stages made by hand and as one module to be cut."""

from itertools import pairwise

import torch
from torch import nn


class Layer(nn.Module):
    """One stage of a chain: a tensor in, a tuple of one out."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor]:
        """Applies the layers."""
        return (self.layers(value),)


def _chain(stages: int) -> list[nn.Module]:
    widths = [6, *([7] * (stages - 1)), 4]
    return [
        Layer(nn.Linear(before, after), nn.Tanh())
        if index < stages - 1
        else Layer(nn.Linear(before, after))
        for index, (before, after) in enumerate(pairwise(widths))
    ]


def chain1() -> list[nn.Module]:
    """One linear stage."""
    return _chain(1)


def chain2() -> list[nn.Module]:
    """Two linear stages."""
    return _chain(2)


def chain3() -> list[nn.Module]:
    """Three linear stages."""
    return _chain(3)


def chain4() -> list[nn.Module]:
    """Four linear stages."""
    return _chain(4)


class Residual(nn.Module):
    """Convolutions with batch normalisation, whose skip connections cross any cut."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 3, 3, stride=4, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.head = nn.Linear(3, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        first = value = self.stem(images)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            value = value + torch.relu(norm(convolution(value)))
        logits: torch.Tensor = self.head((value + first).mean((2, 3)))
        return logits


def residual(channels: int, classes: int) -> nn.Module:
    """The model whole."""
    return Residual(channels, classes)


def lopsided(channels: int, classes: int) -> nn.Module:
    """Nearly all of the work in one operator, so that no cut makes two equal stages."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784 * channels, 4000), nn.ReLU(), nn.Linear(4000, classes)
    )


RESIDUAL_CUTS: dict[int, tuple[str, ...]] = {
    1: (),
    2: ("norms_1",),
    3: ("norms_0", "norms_2"),
    4: ("norms_0", "norms_1", "norms_3"),
}
"""Operators of the residual model after which it is cut: inside its blocks, so that two or three
tensors cross."""


class AddedTwice(nn.Module):
    """A sum of two parameters of one shape: autograd gives both the very same gradient tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(4, 6))
        self.right = nn.Parameter(torch.randn(4, 6))

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor]:
        """A linear map with the sum of two weights."""
        return (nn.functional.linear(value, self.left + self.right),)


def added_twice() -> list[nn.Module]:
    """A linear stage and one whose two parameters share a gradient."""
    return [Layer(nn.Linear(6, 6), nn.Tanh()), AddedTwice()]


def two_layers(channels: int, classes: int) -> nn.Module:
    """Three operators: not enough for four stages."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784 * channels, 4), nn.Linear(4, classes))


class Branching(nn.Module):
    """Decides by the value of its input, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, or their negation."""
        logits: torch.Tensor = self.linear(images.flatten(1))
        if logits.sum() > 0:
            return -logits
        return logits


class Block(nn.Module):
    """Attention and a perceptron, each on normalised values beside a skip connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_heads, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """(batch, places, width), the same shape."""
        batch, places, width = value.shape
        parts = self.to_heads(self.before_attention(value))
        parts = parts.view(batch, places, 3, self.heads, width // self.heads)
        query, key, values = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, values)
        value = value + self.from_heads(mixed.transpose(1, 2).reshape(batch, places, width))
        grown: torch.Tensor = value + self.mlp(self.before_mlp(value))
        return grown


class Transformer(nn.Module):
    """Patches of an image through blocks of attention."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 8, 7, stride=7)
        self.places = nn.Parameter(torch.randn(16, 8) * 0.1)
        self.blocks = nn.Sequential(*(Block(8, 2) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        value = self.patches(images).flatten(2).transpose(1, 2) + self.places
        logits: torch.Tensor = self.head(self.norm(self.blocks(value)).mean(1))
        return logits


def transformer(channels: int, classes: int) -> nn.Module:
    """The model whole."""
    return Transformer(channels, classes)


class PassesItsImages(nn.Module):
    """Needs the images themselves near its end: they cross every cut, and take no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 16), nn.Linear(16, 16), nn.Linear(16, 784))
        self.head = nn.Linear(784, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.layers(images.flatten(1)) + images.flatten(1))
        return logits
