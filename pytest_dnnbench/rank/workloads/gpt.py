"""GPT-2 (Radford et al., 2019) as nanoGPT has it: learned positions, LayerNorm before each part,
GELU, a head that shares the embedding's weights.

Not here: how it is trained (token_workload.py), Llama (llama.py).
"""

from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pytest_dnnbench.rank.workloads.token_workload import TokenWorkload
from pytest_dnnbench.text_file import TextFile


@dataclass(frozen=True, slots=True)
class GptSizes:
    """`width` is that of the residual stream; it must be a multiple of `heads`."""

    layers: int
    heads: int
    width: int
    vocabulary: int = 256
    context: int = 128
    dropout: float = 0.1


class Attention(nn.Module):
    """Causal self-attention. Queries, keys and values have a layer each, so that their heads can be
    split among ranks."""

    def __init__(self, sizes: GptSizes) -> None:
        super().__init__()
        width = sizes.width
        self.head_width, self.dropout = width // sizes.heads, sizes.dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Of (batch, sequence, width), the same shape."""
        batch, length, _ = stream.shape
        query, key, value = (
            part(stream).view(batch, length, -1, self.head_width).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        rate = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class FeedForward(nn.Module):
    """Two layers with GELU between them, four times as wide inside."""

    def __init__(self, sizes: GptSizes) -> None:
        super().__init__()
        self.up, self.gelu = nn.Linear(sizes.width, 4 * sizes.width), nn.GELU("tanh")
        self.down = nn.Linear(4 * sizes.width, sizes.width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Of (batch, sequence, width), the same shape."""
        out: torch.Tensor = self.down(self.gelu(self.up(stream)))
        return out


class Block(nn.Module):
    """A layer: attention and feed-forward, each added to the stream."""

    def __init__(self, sizes: GptSizes) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(sizes.width), Attention(sizes)
        self.norm2, self.feed_forward = nn.LayerNorm(sizes.width), FeedForward(sizes)
        self.drop = nn.Dropout(sizes.dropout)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Of (batch, sequence, width), the same shape."""
        stream = stream + self.drop(self.attention(self.norm1(stream)))
        added: torch.Tensor = self.drop(self.feed_forward(self.norm2(stream)))
        return stream + added


class Gpt(nn.Module):
    """Tokens, (batch, sequence), to logits, (batch, sequence, vocabulary)."""

    def __init__(self, sizes: GptSizes) -> None:
        super().__init__()
        self.token = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position = nn.Embedding(sizes.context, sizes.width)
        self.drop = nn.Dropout(sizes.dropout)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.head.weight = self.token.weight
        self._initialise(sizes.layers)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.drop(self.token(tokens) + self.position(positions))
        logits: torch.Tensor = self.head(self.norm(self.blocks(stream)))
        return logits

    def _initialise(self, layers: int) -> None:
        """GPT-2's first weights: 0.02, less for what is added to the stream once per layer."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                added = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / sqrt(2 * layers) if added else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


def gpt(sizes: GptSizes, sequence_length: int = 0, text: TextFile | None = None) -> TokenWorkload:
    """The training of a GPT of these sizes. Raises UsageError for data that do not fit it."""
    return TokenWorkload(
        partial(Gpt, sizes),
        vocabulary=sizes.vocabulary,
        context=sizes.context,
        heads=sizes.heads,
        sequence_length=sequence_length,
        text=text,
    )


_GPT2 = {"vocabulary": 50_257, "context": 1024}

nano = partial(gpt, GptSizes(3, 3, 48))
tiny = partial(gpt, GptSizes(4, 4, 128))
mini = partial(gpt, GptSizes(6, 6, 384, context=256))
gpt2_124m = partial(gpt, GptSizes(12, 12, 768, **_GPT2))
gpt2_355m = partial(gpt, GptSizes(24, 16, 1024, **_GPT2))
gpt2_774m = partial(gpt, GptSizes(36, 20, 1280, **_GPT2))
gpt2_1558m = partial(gpt, GptSizes(48, 25, 1600, **_GPT2))
