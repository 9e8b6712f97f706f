"""The layers of a transformer that tensor parallelism splits, told by their structure: a model
from elsewhere does not say which they are.

    feed-forward   a Sequential with two linear layers, only functions of single elements between
                   them, and as many features at the end as at the beginning
    attention      nn.MultiheadAttention and torchvision's attention in windows, by heads

Not here: attention of other classes; it stays whole.
"""

from collections.abc import Iterator

from torch import nn

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.attention_split import can_split_heads, is_attention

ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.Identity, nn.Dropout)


def transformer_split(model: nn.Module, ranks: int) -> dict[str, str]:
    """As Workload.split. Layers that the ranks cannot share evenly stay whole. Raises UsageError
    where that is all of them."""
    pairs = list(_feed_forwards(model))
    split: dict[str, str] = {}
    for first, second in pairs:
        if model.get_submodule(first).out_features % ranks == 0:  # type: ignore[operator]
            split |= {first: "column", second: "row"}
    attentions = [name for name, part in model.named_modules() if is_attention(part)]
    split |= {
        name: "heads" for name in attentions if can_split_heads(model.get_submodule(name), ranks)
    }
    if not split and (pairs or attentions):
        raise UsageError(
            f"no feed-forward or attention of the model can be shared evenly by {ranks} ranks: use"
            " another number of GPUs"
        )
    return split


def _feed_forwards(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of the first and second layers."""
    for prefix, block in model.named_modules():
        if not isinstance(block, nn.Sequential):
            continue
        first: tuple[str, nn.Linear] | None = None
        for name, part in block.named_children():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(part, nn.Linear):
                if first is not None and first[1].in_features == part.out_features:
                    yield first[0], path
                    first = None
                else:
                    first = path, part
            elif not isinstance(part, ELEMENTWISE):
                first = None
