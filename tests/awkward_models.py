"""Models that users have and that a proof must get right, or refuse in a line. The package treats
them as a user's own factories."""

import random
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class Base(nn.Module):
    """Convolution, batch normalisation, linear."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Eight numbers of each image."""
        return self.pool(self.stem(images)).flatten(1)  # type: ignore[no-any-return] # a module's call

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.features(images))


class Largest(Base):
    """Pools by the largest element, whose gradient goes to those that are equal to it."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Eight numbers of each image."""
        return self.stem(images).amax((2, 3))  # type: ignore[no-any-return] # a module's call


class Transformer(nn.Module):
    """torch's own encoder layer: dropout inside attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 7, 7)
        self.body = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.body(self.patch(images).flatten(2).transpose(1, 2)).mean(1))


class Recurrent(nn.Module):
    """nn.LSTM with dropout between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(28, 8, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.body(images[:, 0])[0][:, -1])


class DropPath(Base):
    """Drops whole paths and adds noise, by functions and under other names than `p`."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.features(images)
        if self.training:
            keep = torch.floor(0.8 + torch.rand(len(value), 1, dtype=value.dtype)) / 0.8
            value = value * keep + torch.randn_like(value)
            value = nn.functional.dropout(value, 0.4, training=True)
        return self.head(value)


class PythonRandom(Base):
    """Draws from a generator that is not torch's."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return super().forward(images) * random.random()


class FrozenBackbone(Base):
    """Trains its head only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)


class RunningCenter(Base):
    """Puts a new tensor in place of a buffer in every pass."""

    center: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(8))

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.features(images)
        if self.training:
            self.center = 0.9 * self.center + 0.1 * value.detach().mean(0)
        return self.head(value - self.center)


class Unused(Base):
    """Has a layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(8, 10)


class Sparse(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(16, 8, sparse=True), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        words = (images.flatten(1)[:, :32].clamp(-3, 3) * 2.5 + 7.5).long()
        return self.head(self.table(words).mean(1))


class Lazy(nn.Module):
    """Layers that take their shape from the first images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LazyConv2d(8, 3, 4), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
        )

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.body(images)


class Dictionary(Base):
    """Returns its logits in a dictionary."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits by name."""
        return {"logits": super().forward(images)}


@dataclass
class Output:
    """Logits, as libraries wrap them."""

    logits: torch.Tensor


class Wrapped(Base):
    """Returns its logits in an object."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits in an object."""
        return Output(super().forward(images))


class Collective(Base):
    """Averages over ranks in its forward."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.features(images)
        mean = value.detach().mean(0)
        if self.training and dist.is_initialized():
            dist.all_reduce(mean)
        return self.head(value - mean)


class Permuting(nn.Module):
    """LayerNorm over channels between permutations: gradients in another layout than weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 4, 4), nn.LayerNorm(8)
        self.down, self.norm2 = nn.Conv2d(8, 16, 2, 2), nn.LayerNorm(16)
        self.mix = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.norm(self.stem(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        value = self.down(value)
        value = value + self.mix(value)
        return self.head(self.norm2(value.permute(0, 2, 3, 1)).mean((1, 2)))


class ChannelsLast(Base):
    """Weights in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's gap


class Bfloat16(Base):
    """A module of bfloat16. Says so when it is run in another type, but for the proof's."""

    def __init__(self) -> None:
        super().__init__()
        self.to(torch.bfloat16)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        kind = self.head.weight.dtype
        assert kind in (torch.bfloat16, torch.float64), f"the bfloat16 module is run in {kind}"
        return self.head(self.features(images.to(kind))).to(images.dtype)


class OneBfloat16Layer(Base):
    """One layer's weights are held in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.head.to(torch.bfloat16)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.features(images)
        weight, bias = (each.to(value.dtype) for each in (self.head.weight, self.head.bias))
        return nn.functional.linear(value, weight, bias)


class Spectral(Base):
    """Multiplies the spectrum by complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 4, 3, dtype=torch.cfloat))

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        assert self.filter.is_complex(), f"the complex filter became {self.filter.dtype}"
        value = self.stem(images)
        value = torch.fft.irfft2(torch.fft.rfft2(value) * self.filter, s=value.shape[-2:])
        return self.head(self.pool(value).flatten(1))


class PlainSpectral(Spectral):
    """The same without a look at its type, which no trace can follow."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.stem(images)
        value = torch.fft.irfft2(torch.fft.rfft2(value) * self.filter, s=(4, 4))
        return self.head(self.pool(value).flatten(1))


class _Paths(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Its input, without a part of the images."""
        if not self.training:
            return value
        return value * value.new_empty(len(value), 1).bernoulli_(0.7).div_(0.7)


class DropPathLayer(Base):
    """Drops paths in a module of its own, as libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = _Paths()

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.paths(self.features(images)))


class Deep(nn.Module):
    """Sixty convolutions with batch normalisation over few values: rounding grows from layer to
    layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 4, 1)
        layers: list[nn.Module] = []
        for _ in range(60):
            layers += [nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.pool(self.body(self.stem(images))).flatten(1))


class Chaotic(Base):
    """Doubles a difference sixty times over: rounding makes anything of its gradients."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = torch.sigmoid(self.features(images))
        for _ in range(60):
            value = 4 * value * (1 - value)
        return self.head(value)


class NoGrad(Base):
    """Never trains its stem. A trace forgets that."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        with torch.no_grad():
            value = self.features(images)
        return self.head(value)


class Autocast(Base):
    """Computes in bfloat16 inside. A trace forgets that."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(images).to(images.dtype)


class Sleeping(Base):
    """Works on the host. A trace forgets that."""

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        time.sleep(0.3)
        return super().forward(images)


class _SleepingBlock(nn.Module):
    pipeline_leaf = True

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Its input, later."""
        time.sleep(0.03)
        return value * 1.0


class SleepingLeaf(Base):
    """Works on the host inside a leaf, which every stage calls as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.block = _SleepingBlock()

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return super().forward(self.block(images))


class Wide(nn.Module):
    """Eight million weights and next to no work: what a proof holds of the weights shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(784, 10_000), nn.Linear(10_000, 10)

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        return self.last(self.first(images.flatten(1)))


class _Halved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, *, value: torch.Tensor) -> torch.Tensor:
        """Of half of its input, which it changes by a function."""
        return self.layer(value.mul_(0.5))  # type: ignore[no-any-return] # a module's call


class _HandsOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(8))

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A sum, and a view of its input."""
        return value + self.bias, value[:, :4]


class ChangesInputs(Base):
    """Three blocks whose inputs are changed in place: by a function, by who gets a view of it, and
    by a module."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__(channels, classes)
        self.halved, self.hands_on = _Halved(), _HandsOn()
        self.head = nn.Sequential(  # type: ignore[assignment] # in place of one layer
            nn.Dropout(0.3, inplace=True), nn.Linear(8, classes)
        )

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value, part = self.hands_on(self.halved(value=self.features(images)))
        return self.head(value) + part.tanh_().sum(1, keepdim=True)


class GoesOn(Base):
    """Uses what a block has left in its input."""

    def __init__(self) -> None:
        super().__init__()
        self.halved = _Halved()

    def forward(self, images: torch.Tensor) -> Any:
        """Logits."""
        value = self.features(images)
        return self.head(self.halved(value=value) + value)
