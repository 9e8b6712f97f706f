"""Profiles of real models: complete, of the right sizes, measured under what they say."""

import pytest
import torch

from pytest_dnnbench.errors import ProfileError, UsageError
from pytest_dnnbench.planner.sharded import units_of
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.profiling.profiler import (
    Effort,
    fingerprint,
    parts_over_whole,
    profile_model,
    profile_module,
)
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images
from tests.profiling.branching_models import Chunks, Tied

QUICK = Effort(warmup=1, repetitions=3)


@pytest.mark.parametrize(("image_size", "precision"), [(28, "fp32"), (28, "bf16"), (32, "fp32")])
def test_a_profile_has_every_operator_and_every_parameter(image_size: int, precision: str) -> None:
    profile = profile_model(
        "torchvision.models:resnet18", image_size, 2, precision, "cpu", effort=QUICK
    )
    model = build_model("torchvision.models:resnet18", image_size)
    assert (
        tuple(operator.id for operator in profile.operators)
        == trace(model, example_images(image_size, 2)).operators
    )
    assert sum(operator.parameter_bytes for operator in profile.operators) == sum(
        p.nbytes for p in model.parameters()
    )
    assert all(operator.forward_s > 0 for operator in profile.operators)
    assert sum(operator.backward_s > 0 for operator in profile.operators) == len(profile.operators)
    sizes = {operator.id: operator.activation_bytes for operator in profile.operators}
    element = 2 if precision == "bf16" else 4
    assert sizes["conv1"] == 2 * 64 * (image_size // 2) ** 2 * element
    assert sizes["fc"] == 2 * (10 if image_size == 28 else 1000) * element


def test_a_profile_says_what_it_was_measured_under() -> None:
    threads = torch.get_num_threads()
    profile = profile_model(
        "torchvision.models:resnet18", 28, 2, "fp32", "cpu", threads=1, effort=QUICK
    )
    profile.require(
        model="torchvision.models:resnet18",
        image_size=28,
        batch_size=2,
        precision="fp32",
        device="cpu",
    )
    assert profile.metadata["environment"]["torch"] == torch.__version__
    assert profile.metadata["environment"]["threads"] == 1
    assert len(profile.metadata["whole_samples_s"]) == QUICK.repetitions
    assert sorted(profile.metadata["whole_samples_s"])[1] == profile.metadata["whole_s"]
    assert parts_over_whole(profile) == pytest.approx(profile.parts_s / profile.metadata["whole_s"])
    assert torch.get_num_threads() == threads
    with pytest.raises(ProfileError, match="batch_size 2, required is 4"):
        profile.require(batch_size=4)


def test_a_users_module_is_profiled_with_lone_parameters_counted_once() -> None:
    profile = profile_module(Chunks(), torch.randn(4, 1, 28, 28), effort=QUICK)
    sizes = {operator.id: operator.parameter_bytes for operator in profile.operators}
    assert sizes["add_"] == 3 * 4
    assert sum(sizes.values()) == sum(p.nbytes for p in Chunks().parameters())
    tied = profile_module(Tied(), torch.randn(4, 1, 28, 28), effort=QUICK)
    assert {
        operator.id: operator.parameter_bytes
        for operator in tied.operators
        if operator.id in ("first", "last")
    } == {
        "first": 28 * 28 * 4,
        "last": 0,
    }


def test_a_profile_has_the_update_and_the_blocks_of_the_workload() -> None:
    resnet = profile_model("torchvision.models:resnet18", 28, 2, "fp32", "cpu", effort=QUICK)
    weights = sum(operator.parameter_bytes for operator in resnet.operators)
    assert resnet.metadata["update_s"] > 0
    assert resnet.metadata["optimiser_bytes"] == weights, "a momentum"
    blocks = resnet.metadata["blocks"]
    assert blocks["layer4_1_conv2"] == "layer4.1"
    assert blocks["conv1"] == "conv1"
    assert "layer4_1_relu" not in blocks, "no weights"

    gpt = profile_model(
        "pytest_dnnbench.rank.workloads.gpt:nano", 28, 2, "fp32", "cpu", effort=QUICK
    )
    weights = sum(operator.parameter_bytes for operator in gpt.operators)
    assert gpt.metadata["optimiser_bytes"] >= 2 * weights, "AdamW's two moments, and its counts"
    assert gpt.metadata["optimiser_bytes"] < 2.1 * weights
    units = units_of(gpt)
    assert units.blocks == [f"blocks.{n}" for n in range(len(units.blocks))]
    assert units.root_bytes + sum(units.parameter_bytes[b] for b in units.blocks) == weights
    assert units.root_bytes > 0, "embeddings and head"


def test_the_nodes_of_a_profile_are_what_a_model_is_cut_into() -> None:
    profile = profile_model("torchvision.models:resnet18", 28, 2, "fp32", "cpu", effort=QUICK)
    ids = [operator.id for operator in profile.in_topological_order()]
    stages = cut(
        build_model("torchvision.models:resnet18", 28),
        example_images(28, 2),
        [set(ids[:30]), set(ids[30:])],
    )
    assert [len(stage.operators) for stage in stages] == [30, 39]


def test_a_fingerprint_tells_models_apart() -> None:
    small, large = (
        trace(build_model("torchvision.models:resnet18", size), example_images(size, 2))
        for size in (28, 32)
    )
    assert fingerprint(small) != fingerprint(large)
    assert fingerprint(small) == fingerprint(
        trace(build_model("torchvision.models:resnet18", 28), example_images(28, 2))
    )


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("fp8", "cpu", "precision 'fp8' is unknown: choose from fp32, tf32, bf16"),
        ("fp32", "meta", "'meta' cannot be profiled"),
        ("fp32", "gpu", "'gpu' is not known to torch"),
    ],
)
def test_conditions_that_cannot_be_are_refused(precision: str, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profile_model("torchvision.models:resnet18", 28, 2, precision, device, effort=QUICK)


def test_no_repetitions_are_no_profile() -> None:
    with pytest.raises(UsageError, match="0 repetitions"):
        Effort(repetitions=0)
