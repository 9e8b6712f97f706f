"""Workloads whose models take or return several tensors, small enough for tests: an
encoder-decoder, a U-Net with time and condition, masks, an auxiliary output. The package treats
them as a user's own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from pytest_dnnbench.rank.workloads.workload import Batch, Workload

TOKENS, LENGTH, WIDTH, CLASSES = 13, 5, 8, 4


class Attention(nn.Module):
    """One head over another sequence, or over its own; masks are of truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(
        self, rows: torch.Tensor, others: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The rows, (batch, length, width), with what they take of the others. `allowed` is
        (length, others) or (batch, 1, others)."""
        scores = self.query(rows) @ self.key(others).transpose(-2, -1) / WIDTH**0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, float("-inf"))
        taken: torch.Tensor = rows + scores.softmax(-1) @ self.value(others)
        normed: torch.Tensor = self.norm(taken)
        return normed


class FeedForward(nn.Module):
    """Two layers and a way around them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows, changed."""
        changed: torch.Tensor = rows + self.down(torch.nn.functional.gelu(self.up(rows)))
        return changed


class EncoderDecoder(nn.Module):
    """Source and target tokens, a causal mask without samples; logits of the next target."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(TOKENS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.encoder = nn.ModuleList([Attention(), FeedForward(), Attention(), FeedForward()])
        self.causal, self.across, self.last = Attention(), Attention(), FeedForward()
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(
        self, source: torch.Tensor, target: torch.Tensor, causal: torch.Tensor
    ) -> torch.Tensor:
        """Logits, (batch, length, tokens)."""
        memory = self.source(source)
        for layer in self.encoder:
            memory = layer(memory, memory) if isinstance(layer, Attention) else layer(memory)
        rows = self.target(target)
        rows = self.causal(rows, rows, causal)
        logits: torch.Tensor = self.head(self.last(self.across(rows, memory)))
        return logits


class Translation(Workload):
    """Source and target by name, and a mask that all samples share."""

    sample = "tok"

    def model(self) -> nn.Module:
        """An encoder-decoder."""
        return EncoderDecoder()

    def batch(self, size: int) -> Batch:
        """Random tokens."""
        target = torch.randint(TOKENS, (size, LENGTH + 1))
        inputs = {
            "source": torch.randint(TOKENS, (size, LENGTH)),
            "target": target[:, :-1].contiguous(),
            "causal": torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
        }
        return inputs, target[:, 1:].contiguous()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(model.parameters(), lr=0.01)


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told beside its images."""

    time: torch.Tensor
    label: torch.Tensor
    scale: float = 0.5


class UNet(nn.Module):
    """Down, middle and up, each told of time and condition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, padding=1)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(8, 2, 3, padding=1)
        self.labels, self.times = nn.Embedding(CLASSES, 6), nn.Linear(1, 6)
        self.late_times = nn.Linear(1, 4)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, noisy: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The noise, as large as the images."""
        first = torch.tanh(self.first(noisy))
        embedding = self.times(condition.time) + condition.scale * self.labels(condition.label)
        middle = self.norm(self.down(first)) + embedding[:, :, None, None]
        middle = torch.tanh(self.middle(torch.tanh(middle)))
        up = self.up(middle) + self.late_times(condition.time)[:, :, None, None]
        noise: torch.Tensor = self.last(torch.cat([first, torch.tanh(up)], 1))
        return noise


class Diffusion(Workload):
    """Images, and a dataclass of time and label."""

    def model(self) -> nn.Module:
        """A U-Net."""
        return UNet()

    def batch(self, size: int) -> Batch:
        """Noise, times and labels."""
        condition = Condition(torch.rand(size, 1), torch.randint(CLASSES, (size,)))
        return (torch.randn(size, 2, 8, 8), condition), torch.randn(size, 2, 8, 8)

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared error."""
        return mse_loss(output, targets)


class MaskedReader(nn.Module):
    """Attends to those tokens that a mask of truth values allows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.attention = nn.ModuleList(Attention() for _ in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of each sample, (batch, classes)."""
        rows = self.table(ids)
        for layer in self.attention:
            rows = layer(rows, rows, mask[:, None, :])
        kept = (rows * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        logits: torch.Tensor = self.head(kept)
        return logits


class Masked(Workload):
    """Tokens, and which of them count: others in every minibatch."""

    def model(self) -> nn.Module:
        """A reader."""
        return MaskedReader()

    def batch(self, size: int) -> Batch:
        """Random tokens and masks, the first token always allowed."""
        mask = torch.rand(size, LENGTH) < 0.6
        mask[:, 0] = True
        inputs = {"ids": torch.randint(TOKENS, (size, LENGTH)), "mask": mask}
        return inputs, torch.randint(CLASSES, (size,))


class TwoHeads(nn.Module):
    """A classifier with an auxiliary head in its middle, which also returns what its loss does not
    take: features, and the best classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, WIDTH), nn.BatchNorm1d(WIDTH)
        self.auxiliary = nn.Linear(WIDTH, CLASSES)
        self.body = nn.ModuleList(FeedForward() for _ in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows: torch.Tensor) -> dict[str, Any]:
        """Logits of both heads."""
        middle = torch.tanh(self.norm(self.stem(rows)))
        auxiliary, value = self.auxiliary(middle), middle
        for layer in self.body:
            value = layer(value)
        logits = self.head(value)
        return {
            "out": logits,
            "aux": auxiliary,
            "features": (middle, None),
            "best": auxiliary.argmax(1),
        }


class Auxiliary(Workload):
    """Two logits and two kinds of targets, one loss."""

    def model(self) -> nn.Module:
        """A classifier of two heads."""
        return TwoHeads()

    def batch(self, size: int) -> Batch:
        """Vectors, labels and weights."""
        targets = {"labels": torch.randint(CLASSES, (size,)), "weights": torch.rand(size)}
        return torch.randn(size, 6), targets

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """Cross entropy of both heads, weighted by sample."""
        losses = cross_entropy(output["out"], targets["labels"], reduction="none")
        aside = cross_entropy(output["aux"], targets["labels"], reduction="none")
        loss: torch.Tensor = ((losses + 0.4 * aside) * targets["weights"]).mean()
        return loss


class HeadInTraining(TwoHeads):
    """Its auxiliary head runs in training only, and it returns a tensor else, as googlenet."""

    def forward(self, rows: torch.Tensor) -> Any:
        """Logits, in training of both heads."""
        value = torch.tanh(self.norm(self.stem(rows)))
        auxiliary = self.auxiliary(torch.tanh(value)) if self.training else None
        for layer in self.body:
            value = layer(torch.tanh(value))
        logits = self.head(value)
        return (logits, auxiliary) if self.training else logits


class InTraining(Workload):
    """The training of that model."""

    def model(self) -> nn.Module:
        """A classifier of one head, and of one more in training."""
        return HeadInTraining()

    def batch(self, size: int) -> Batch:
        """Vectors and labels."""
        return torch.randn(size, 6), torch.randint(CLASSES, (size,))

    def loss(self, output: Any, targets: Any) -> torch.Tensor:
        """Cross entropy of what there is."""
        if isinstance(output, torch.Tensor):
            return cross_entropy(output, targets)
        return cross_entropy(output[0], targets) + 0.3 * cross_entropy(output[1], targets)


class Moments(nn.Module):
    """A leaf that returns a dict."""

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean and largest of each row."""
        return {"mean": rows.mean(-1), "largest": rows.amax(-1)}


class Rememberer(nn.Module):
    """Returns whole what its leaves return: nested tuples, a tuple with None in it, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.memory = nn.LSTM(WIDTH, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.moments = Moments()
        self.last = nn.LSTM(WIDTH, CLASSES, batch_first=True)

    def forward(self, rows: torch.Tensor) -> Any:
        """What the first memory holds, and what comes after it."""
        first = torch.tanh(self.first(rows))
        memory = self.memory(first)
        second = self.second(first) * self.moments(first)["mean"].unsqueeze(-1)
        attended = self.attention(second, second, second, need_weights=False)
        return memory, {"attended": attended, "moments": self.moments(second)}, self.last(second)


class Remembering(Workload):
    """Sequences of vectors to classes; everything that the model returns is in the loss."""

    def model(self) -> nn.Module:
        """Two memories with attention between them."""
        return Rememberer()

    def batch(self, size: int) -> Batch:
        """Random sequences, and a class for each."""
        return torch.randn(size, LENGTH, 6), torch.randint(CLASSES, (size,))

    def loss(self, output: Any, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the last state; the rest shall be small."""
        (early, (hidden, cells)), aside, (late, (_, last)) = output
        attended, nothing = aside["attended"]
        assert nothing is None
        rest = [early, hidden, cells, attended, late, *aside["moments"].values()]
        penalty = torch.stack([each.square().mean() for each in rest]).sum()
        return cross_entropy(last.squeeze(0), targets) + 0.1 * penalty


class Ragged(Masked):
    """Its minibatches have samples of other lengths each time."""

    def batch(self, size: int) -> Batch:
        """Random tokens, as many as the first of them says."""
        inputs, targets = super().batch(size)
        length = 2 + int(inputs["ids"][0, 0]) % (LENGTH - 1)
        return {name: each[:, :length] for name, each in inputs.items()}, targets


class Changing(Masked):
    """One of its inputs is a number, and another one each time."""

    def batch(self, size: int) -> Batch:
        """Tokens, and how many there are."""
        inputs, targets = super().batch(size)
        return {**inputs, "count": int(torch.randint(10_000_000, ()))}, targets

    def model(self) -> nn.Module:
        """A reader that does not look at the number."""
        return _Counted()


class _Counted(MaskedReader):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:  # type: ignore[override] # on purpose
        return super().forward(ids, mask)
