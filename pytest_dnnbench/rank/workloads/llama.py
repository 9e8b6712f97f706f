"""Llama (Touvron et al., 2023; Dubey et al., 2024): RMSNorm, rotary positions (Su et al., 2021),
grouped queries (Ainslie et al., 2023), SwiGLU (Shazeer, 2020), no biases.

Not here: how it is trained (token_workload.py), GPT (gpt.py).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from pytest_dnnbench.rank.workloads.token_workload import TokenWorkload
from pytest_dnnbench.text_file import TextFile


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """`width` is that of the residual stream, `inner` that of the feed-forward. Each of the
    `key_heads` serves heads / key_heads queries."""

    layers: int
    heads: int
    key_heads: int
    width: int
    inner: int
    vocabulary: int = 256
    context: int = 128
    tied: bool = False
    base: float = 10_000.0


def rotation(length: int, width: int, base: float, like: torch.Tensor) -> torch.Tensor:
    """Cosines and sines of the rotary angles, (2, length, width / 2), on the device of `like`, in
    its type and at least in single precision."""
    kind = torch.promote_types(like.dtype, torch.float32)
    places = torch.arange(length, device=like.device, dtype=kind)
    steps = torch.arange(0, width, 2, device=like.device, dtype=kind) / width
    angles = torch.outer(places, torch.pow(base, -steps))
    return torch.stack([angles.cos(), angles.sin()])


def rotated(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """(batch, heads, sequence, width) with each pair (first half, second half) turned by its
    angle."""
    first, second = heads.chunk(2, dim=-1)
    cosine, sine = turns.to(heads.dtype).unbind()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Attention(nn.Module):
    """Causal self-attention of grouped queries with rotary positions."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.head_width, self.base = sizes.width // sizes.heads, sizes.base
        self.group = sizes.heads // sizes.key_heads
        keys = sizes.key_heads * self.head_width
        self.query = nn.Linear(sizes.width, sizes.width, bias=False)
        self.key = nn.Linear(sizes.width, keys, bias=False)
        self.value = nn.Linear(sizes.width, keys, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Of (batch, sequence, width), the same shape."""
        batch, length, _ = stream.shape
        query, key, value = (
            part(stream).view(batch, length, -1, self.head_width).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        turns = rotation(length, self.head_width, self.base, self.query.weight)
        query, key = rotated(query, turns), rotated(key, turns)
        if self.group > 1:
            key = key.repeat_interleave(self.group, dim=1)
            value = value.repeat_interleave(self.group, dim=1)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class FeedForward(nn.Module):
    """SwiGLU: one layer gates the other."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.gate = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.up = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.down = nn.Linear(sizes.inner, sizes.width, bias=False)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Of (batch, sequence, width), the same shape."""
        out: torch.Tensor = self.down(silu(self.gate(stream)) * self.up(stream))
        return out


class Block(nn.Module):
    """A layer: attention and feed-forward, each added to the stream."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(sizes.width, eps=1e-5), Attention(sizes)
        self.norm2, self.feed_forward = nn.RMSNorm(sizes.width, eps=1e-5), FeedForward(sizes)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Of (batch, sequence, width), the same shape."""
        stream = stream + self.attention(self.norm1(stream))
        added: torch.Tensor = self.feed_forward(self.norm2(stream))
        return stream + added


class Llama(nn.Module):
    """Tokens, (batch, sequence), to logits, (batch, sequence, vocabulary)."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.token = nn.Embedding(sizes.vocabulary, sizes.width)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        self.norm = nn.RMSNorm(sizes.width, eps=1e-5)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        if sizes.tied:
            self.head.weight = self.token.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.norm(self.blocks(self.token(tokens))))
        return logits


def llama(
    sizes: LlamaSizes, sequence_length: int = 0, text: TextFile | None = None
) -> TokenWorkload:
    """The training of a Llama of these sizes. Raises UsageError for data that do not fit it."""
    return TokenWorkload(
        partial(Llama, sizes),
        vocabulary=sizes.vocabulary,
        context=sizes.context,
        heads=sizes.key_heads,
        sequence_length=sequence_length,
        text=text,
    )


tiny = partial(llama, LlamaSizes(4, 4, 2, 128, 384))
mini = partial(llama, LlamaSizes(8, 8, 4, 512, 1408, vocabulary=8192, context=512))
llama2_7b = partial(llama, LlamaSizes(32, 32, 32, 4096, 11_008, vocabulary=32_000, context=4096))
llama3_1b = partial(llama, LlamaSizes(16, 32, 8, 2048, 8192, 128_256, 8192, True, 5e5))
llama3_8b = partial(llama, LlamaSizes(32, 32, 8, 4096, 14_336, 128_256, 8192, base=5e5))
