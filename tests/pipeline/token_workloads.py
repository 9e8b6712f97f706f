"""Workloads of tokens, small enough for tests: embeddings, attention, an optimiser of their own."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, StepLR

from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank.workloads.workload import Batch, Workload
from tests.pipeline.models import Block

VOCABULARY, LENGTH, WIDTH = 17, 6, 8


class Language(nn.Module):
    """Tokens, (batch, sequence), to logits of the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH, 2) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, sequence, vocabulary)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        value = self.token(tokens) + self.position(positions)
        logits: torch.Tensor = self.head(self.norm(self.blocks(value)))
        return logits


class Tokens(Workload):
    """Trained by AdamW, without decay for vectors, at a rate that falls."""

    sample: Sample = "tok"

    def model(self) -> nn.Module:
        """A small language model."""
        return Language()

    def batch(self, size: int) -> Batch:
        """Random tokens, and random ones that follow."""
        shape = (size, LENGTH)
        return torch.randint(VOCABULARY, shape), torch.randint(VOCABULARY, shape)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW in two groups."""
        matrices = [each for each in model.parameters() if each.dim() > 1]
        vectors = [each for each in model.parameters() if each.dim() <= 1]
        decays = {True: 0.01, False: 0.0}
        groups = [
            {"params": part, "weight_decay": decays[part is matrices]}
            for part in (matrices, vectors)
            if part
        ]
        return torch.optim.AdamW(groups, lr=0.01)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Halves the rate every second update."""
        return StepLR(optimizer, 2, 0.5)


class Clipped(Tokens):
    """Its gradients are clipped."""

    clip_norm: float | None = 0.05


class NotLocal(Tokens):
    """Its optimiser divides every rate by the number of weights that it has."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD."""
        count = sum(each.numel() for each in model.parameters())
        return torch.optim.SGD(model.parameters(), lr=10 / count)


class Experts(nn.Module):
    """Two experts, of which each token goes to one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """The tokens, (batch, sequence, width), with what their experts make of them."""
        rows = value.flatten(0, 1)
        chances = self.gate(rows).softmax(-1)
        result = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            (chosen,) = torch.where(chances.argmax(-1) == number)
            result[chosen] = expert(rows[chosen]) * chances[chosen, number, None]
        return value + result.view(value.shape)


class Routed(Tokens):
    """A router sends tokens to experts: the number of each differs from minibatch to minibatch."""

    def model(self) -> nn.Module:
        """A small language model with experts in place of attention."""
        model = Language()
        model.blocks = nn.Sequential(*(Experts() for _ in range(3)))
        return model


class Tied(Clipped):
    """Its head has the weights of its embedding, and its gradients are clipped."""

    def model(self) -> nn.Module:
        """A small language model."""
        model = Language()
        model.head.weight = model.token.weight
        return model


class TiedUnclipped(Tied):
    """The same without a limit on the gradients."""

    clip_norm = None


class LateTokens(Language):
    """Looks at its tokens once more at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = super().forward(tokens) + self.again(tokens)
        return logits


class Late(Tokens):
    """The training of that model."""

    def model(self) -> nn.Module:
        """A small language model."""
        return LateTokens()


def late_tokens() -> Workload:
    """The workload, from a factory."""
    return Late()
