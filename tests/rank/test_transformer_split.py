"""Which layers of torchvision's classifiers are split: told by structure, as the catalog says."""

from collections import Counter

import pytest
import torch
from torch import nn

from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.models import IMAGE_CLASSIFIERS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.attention_split import can_split_heads
from pytest_dnnbench.rank.workloads.image_models import factory_of
from pytest_dnnbench.rank.workloads.torchvision_ops import load_torchvision
from pytest_dnnbench.rank.workloads.transformer_split import transformer_split


def model(name: str) -> nn.Module:
    """Without its weights."""
    with torch.device("meta"):
        built = factory_of(Catalog().model(name))(weights=None)
    assert isinstance(built, nn.Module)
    return built


@pytest.mark.parametrize(
    ("name", "blocks", "attentions"),
    [
        ("vit_b_16", 12, 12),
        ("swin_t", 12, 10),
        ("swin_v2_t", 12, 10),
        ("convnext_tiny", 18, 0),
        ("maxvit_t", 22, 22),
    ],
)
def test_feed_forwards_are_split_in_pairs_and_attention_by_heads(
    name: str, blocks: int, attentions: int
) -> None:
    ways = Counter(transformer_split(model(name), 2).values())
    assert (ways["column"], ways["row"], ways["heads"]) == (blocks, blocks, attentions)


def test_the_layers_of_a_block_have_their_names() -> None:
    split = transformer_split(model("vit_b_16"), 4)
    prefix = "encoder.layers.encoder_layer_5"
    assert {name: way for name, way in split.items() if name.startswith(prefix)} == {
        f"{prefix}.mlp.0": "column",
        f"{prefix}.mlp.3": "row",
        f"{prefix}.self_attention": "heads",
    }


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11", "mobilenet_v3_small", "efficientnet_b0", "densenet121"]
)
def test_models_of_convolutions_have_nothing_to_split_and_are_refused(name: str) -> None:
    assert transformer_split(model(name), 2) == {}
    with pytest.raises(UsageError, match=f"tp cannot train {name}: it splits the linear layers"):
        Catalog().framework("tp").check_model(name, Catalog().model(name))


def test_models_with_something_to_split_are_not_refused() -> None:
    tp = Catalog().framework("tp")
    taken = {path.partition(":")[2] for path in IMAGE_CLASSIFIERS - tp.refuses.keys()}
    assert {name.partition("_")[0] for name in taken} == {"vit", "swin", "convnext", "maxvit"}


def test_heads_that_ranks_cannot_share_evenly_stay_whole() -> None:
    ways = Counter(transformer_split(model("vit_b_16"), 8).values())
    assert ways == {"column": 12, "row": 12}, "12 heads, and 3072 features"


def test_a_subclass_that_computes_otherwise_stays_whole() -> None:
    class Other(load_torchvision().models.swin_transformer.ShiftedWindowAttention):  # type: ignore[misc] # torchvision is loaded late
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """Something else."""
            return image

    kinds: list[nn.Module] = [torchvision_attention(), Other(8, [2, 2], [0, 0], 4)]
    assert [can_split_heads(each, 2) for each in kinds] == [True, False]
    assert not can_split_heads(kinds[0], 3)


def torchvision_attention() -> nn.Module:
    made = load_torchvision().models.swin_transformer.ShiftedWindowAttention(8, [2, 2], [0, 0], 4)
    assert isinstance(made, nn.Module)
    return made


def test_ranks_that_divide_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="can be shared evenly by 5 ranks: use another number"):
        transformer_split(model("vit_b_16"), 5)


def test_linear_layers_with_something_else_between_them_are_no_feed_forward() -> None:
    def net(*middle: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), *middle, nn.Linear(8, 4))

    assert transformer_split(net(nn.GELU(), nn.Dropout(0.1)), 2) == {"0": "column", "3": "row"}
    assert transformer_split(net(nn.LayerNorm(8)), 2) == {}
    assert transformer_split(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6)), 2) == {}
