"""Small models with every shape of graph that a cut must get right; users' own modules as far as it
can tell."""

import threading

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import StochasticDepth


class Concat(nn.Module):
    """Two branches of one input, concatenated, as in DenseNet and Inception; three uses of one
    value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.left = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(inplace=True))
        self.right = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(12, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = self.stem(images)
        both = torch.cat([stem, self.left(stem), self.right(stem)], 1)
        logits: torch.Tensor = self.head(
            functional.adaptive_avg_pool2d(both, 1).view(both.size(0), -1)
        )
        return logits


class SqueezeExcite(nn.Module):
    """A squeeze-excite block in a residual branch with stochastic depth, and functional dropout
    behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.SiLU(inplace=True)
        )
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.depth = StochasticDepth(0.5, "row")
        self.head = nn.Linear(6, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = self.stem(images)
        scale = self.excite(
            functional.relu(self.squeeze(stem.mean((2, 3), keepdim=True)), inplace=True)
        )
        stem = stem + self.depth(torch.sigmoid(scale) * stem)
        pooled = functional.dropout(stem.mean((2, 3)), 0.5, self.training)
        logits: torch.Tensor = self.head(pooled)
        return logits


class Chunks(nn.Module):
    """A tuple of tensors between operators, a parameter and a buffer by themselves, arithmetic on a
    size."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.scale = nn.Parameter(torch.rand(1, 3, 1, 1))
        self.register_buffer("offset", torch.rand(1, 3, 1, 1))
        self.head = nn.Linear(3, 10)

    def forward(self, images: torch.Tensor, scaled: bool = True) -> torch.Tensor:
        value, gate = self.conv(images).chunk(2, 1)
        mixed = value * (gate * 2).add_(self.scale.exp()) + self.offset
        pooled = mixed.flatten(2).sum(2) / (images.shape[2] * images.shape[3])
        logits: torch.Tensor = self.head(pooled if scaled else -pooled)
        return logits


class Overwriting(nn.Module):
    """A residual value that an in-place operator changes, used again afterwards under its old
    name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.mix = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.conv(images)
        changed = functional.relu(first, inplace=True)
        value = self.mix(changed) + first
        value.mul_(0.5)
        logits: torch.Tensor = self.head(value.mean((2, 3)))
        return logits


class Tied(nn.Module):
    """One weight, used at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(28, 28, bias=False)
        self.norm = nn.LayerNorm(28)
        self.last = nn.Linear(28, 28, bias=False)
        self.last.weight = self.first.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.norm(self.first(images.flatten(1, 2)))).mean(1)
        return logits


class Attending(nn.Module):
    """Takes the first item of a tuple of a tensor and None, and of a nested tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(28, 2, batch_first=True)
        self.memory = nn.LSTM(28, 10, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.squeeze(1)
        attended, _ = self.attention(rows, rows, rows, need_weights=False)
        _, (_, cells) = self.memory(attended)
        last: torch.Tensor = cells.squeeze(0)
        return last


class Constants(nn.Module):
    """Makes tensors in its forward: of its own numbers, and of the size and place of the images.
    Has a tensor as a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 10)
        self.shift = torch.tensor([0.5, 1.0, -1.0, 2.0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled = self.conv(images * torch.tensor(0.5))
        steps = torch.arange(scaled.shape[-1], device=scaled.device, dtype=scaled.dtype)
        weighted = (scaled * (steps / steps.sum())).sum((2, 3)) + self.shift
        logits: torch.Tensor = self.head(weighted * torch.tensor(2.0))
        return logits


class ReadsADtype(nn.Module):
    """Brings the images to the dtype of its last weight, and sizes to that of its buffer."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 10)
        self.register_buffer("scale", torch.rand(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.conv(images.to(self.head.weight.dtype)) * self.head.weight.size(1)
        value = value.mean((2, 3)).to(self.scale.device)
        logits: torch.Tensor = self.head(value * self.scale)
        return logits


class FollowsSizes(nn.Module):
    """Branches, loops, asserts and unpacks by sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.head = nn.Linear(2, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] % 3:
            images = functional.pad(images, (0, 1, 0, 1))
        assert images.dim() == 4
        value = self.conv(images)
        first, *others = value.chunk(3, 1)
        for number in range(len(others)):
            first = first + others[number] * (number + 1)
        if len(value.shape) == 4 and value.numel() // value.shape[0] > 10:
            first = first * min(int(value.size(2)), 3)
        logits: torch.Tensor = self.head(first.mean((2, 3)))
        return logits


class AssignsItems(nn.Module):
    """Writes into parts of tensors that it makes from sizes, and of copies of activations: tensors,
    numbers, and once what it reads there; the former name is used on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.conv(images)
        shifted = value.new_zeros(value.shape)
        shifted[..., 1:] = value[..., :-1].clone()
        shifted[..., 0] = 0.5
        twice = value.clone()
        twice[:, 0] = twice[:, 0] * 2 + shifted[:, 1]
        rest = torch.zeros((value.size(0), 4), dtype=value.dtype)
        rest[:, 1] = value[:, 2].mean((1, 2))
        logits: torch.Tensor = self.head((shifted * twice).mean((2, 3)) + rest)
        return logits


class FollowsTypes(nn.Module):
    """Branches by types as transformers do, and masks with the least number of a type."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(28)
        self.head = nn.Linear(28, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.norm(images.mean((1, 2)))
        if self.head.weight.dtype in [torch.float16, torch.int8]:
            value = value.to(self.head.weight.dtype)
        if torch.is_floating_point(value) and value.dtype.itemsize < 16:
            value = value * round(value.shape[1] / 27)
        least = torch.finfo(value.dtype).min
        visible = torch.ones(value.shape, dtype=value.dtype)
        visible[:, 20:] = 0
        value = (value + (1.0 - visible) * least).softmax(-1)
        logits: torch.Tensor = self.head(value)
        return logits


class Routed(nn.Module):
    """Two layers of experts, each of which gets the rows whose values choose it: their number is
    another in every minibatch."""

    def __init__(self, width: int = 28) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(width, 2) for _ in range(2))
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = images.flatten(0, 2)
        for layer, gate in enumerate(self.gates):
            chances = gate(value).softmax(-1)
            result = torch.zeros(value.shape, dtype=value.dtype)
            for number in range(2):
                (rows,) = torch.where(chances.argmax(-1) == number)
                made = self.experts[2 * layer + number](value[rows])
                result = result.index_add(0, rows, made * chances[rows, number, None])
            value = value + result
        logits: torch.Tensor = self.head(value.view(images.shape).mean((1, 2)))
        return logits


class Regions(nn.Module):
    """Trains no stem, computes a block in bfloat16, and switches that off again inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.block = nn.Linear(26, 8)
        self.exact = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            value = self.stem(images)
            value = torch.relu(value)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = self.block(value)
            with torch.autocast("cpu", enabled=False):
                value = self.exact(value.float())
            value = self.head(value)
        logits: torch.Tensor = value.float().mean((1, 2))
        return logits


class UsedTwice(nn.Module):
    """One block three times in a row, between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.stem(images)
        for _ in range(3):
            value = torch.relu(self.block(value))
        logits: torch.Tensor = self.head(value.mean((2, 3)))
        return logits


class SharedMask(nn.Module):
    """A buffer that two blocks read, as the rotary frequencies of a language model are."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(28, 28), nn.Linear(28, 10)
        self.register_buffer("mask", torch.rand(28))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.first(images.mean((1, 2)) * self.mask)
        logits: torch.Tensor = self.last(value * self.mask)
        return logits


class Locked(UsedTwice):
    """Holds a lock and an open generator, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = {"forward": threading.Lock()}
        self.numbers = iter([1, 2])
        self.stem.__dict__["lock"] = threading.Lock()
