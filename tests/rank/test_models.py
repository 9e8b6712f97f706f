"""Models by name and by factory, in either form; torchvision loads whether or not its operators
do."""

import importlib
import subprocess
import sys
import traceback

import pytest
import torch
from torch import nn

from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.models import (
    DEFAULT_MODELS,
    OF_ANY_SIZE,
    OF_LARGE_IMAGES,
    TORCHVISION_MODELS,
)
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images, seed

NOT_CALLABLE = 3
RESNET18 = "torchvision.models:resnet18"


class TakesBoth(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.form = (channels, classes)


def takes_classes(classes: int, width: int = 4) -> nn.Module:
    return nn.Linear(width, classes)


def takes_more(classes: int, width: int) -> nn.Module:
    return nn.Linear(width, classes)


def makes_a_list() -> list[nn.Module]:
    return [nn.Linear(1, 1)]


@pytest.mark.parametrize("image_size", [28, 32])
@pytest.mark.parametrize("name", DEFAULT_MODELS)
def test_the_suites_models_take_images_of_either_form(name: str, image_size: int) -> None:
    model = build_model(Catalog().model(name), image_size)
    channels, classes = (1, 10) if image_size == 28 else (3, 1000)
    images = example_images(image_size, 2)
    assert images.shape == (2, channels, image_size, image_size)
    assert model(images).shape == (2, classes)
    assert model.training


def test_the_first_convolution_is_rebuilt_alike_but_for_its_channels() -> None:
    ours, theirs = (build_model(RESNET18, size).get_submodule("conv1") for size in (28, 32))
    assert str(ours) == str(theirs).replace("Conv2d(3,", "Conv2d(1,")
    assert isinstance(ours, nn.Conv2d)
    assert ours.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.1)


def test_the_same_seed_gives_the_same_weights() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(9)
        weights.append(build_model(RESNET18, 28).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_seed_gives_what_torchs_own_seeding_gives() -> None:
    drawn = []
    for seeding in (torch.manual_seed, seed):
        seeding(9)
        drawn.append((torch.randn(100), torch.randint(1000, (100,)), torch.initial_seed()))
    (normal, whole, number), (same_normal, same_whole, same_number) = drawn
    assert torch.equal(normal, same_normal)
    assert torch.equal(whole, same_whole)
    assert number == same_number == 9


def test_seeding_on_the_host_takes_no_stack_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    # They were a quarter of the processor time in which a rank with a small model starts.
    def taken(*_: object, **__: object) -> list[str]:
        raise AssertionError("a stack trace was taken")

    monkeypatch.setattr(traceback, "format_stack", taken)
    seed(9)


def test_seeding_reaches_gpus_that_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    seed(9)
    assert seeds == [9]


def test_a_factory_is_given_what_its_signature_takes() -> None:
    assert vars(build_model(f"{__name__}:TakesBoth", 28))["form"] == (1, 10)
    linear = build_model(f"{__name__}:takes_classes", 32)
    assert isinstance(linear, nn.Linear)
    assert linear.out_features == 1000


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("resnet18", "model 'resnet18' is not of the form package.module:factory"),
        ("torchvision.models:resnet19", "torchvision.models has no 'resnet19'"),
        ("tests.rank.nowhere:model", "module 'tests.rank.nowhere' cannot be imported"),
        ("tests.rank.test_models:missing", "has no 'missing'"),
        ("tests.rank.test_models:NOT_CALLABLE", "is of type int and cannot be called"),
        ("tests.rank.test_models:makes_a_list", "made a list"),
        ("tests.rank.test_models:takes_more", "give its other parameters defaults"),
    ],
)
def test_what_is_no_model_is_refused(target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(target, 28)


def run_python(script: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_operators_are_declared_only_where_they_are_missing() -> None:
    script = """
import sys, types
from pytest_dnnbench.rank.workloads import torchvision_ops
sys.modules["torchvision"] = types.ModuleType("torchvision")  # stands for one whose import works
assert torchvision_ops.load_torchvision() is sys.modules.pop("torchvision")
assert not torchvision_ops._declared
try:
    import torchvision
    missing = False
except RuntimeError as error:
    assert "torchvision::nms" in str(error)
    missing = True
torchvision_ops.load_torchvision()
import torchvision.models
print(missing == bool(torchvision_ops._declared))
"""
    assert run_python(script) == "True"


def test_another_failure_of_the_import_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import importlib
from pytest_dnnbench.rank.workloads import torchvision_ops
def fail(name):
    raise RuntimeError("something else")
importlib.import_module = fail
try:
    torchvision_ops.load_torchvision()
except RuntimeError as error:
    print(error, len(torchvision_ops._declared))
"""
    assert run_python(script) == "something else 0"


@pytest.mark.parametrize("name", ["alexnet", "vit_b_16", "inception_v3"])
def test_a_classifier_that_does_not_take_mnists_images_says_so(name: str) -> None:
    with pytest.raises(UsageError, match="not take MNIST's images of 28 pixels: give --dnn-image-"):
        build_model(TORCHVISION_MODELS[name], 28)


def test_every_classifier_of_torchvision_has_a_name() -> None:
    models = importlib.import_module("torchvision.models")
    names = models.list_models(module=models)
    assert set(names) == set(TORCHVISION_MODELS)
    assert set(TORCHVISION_MODELS.values()) == OF_ANY_SIZE | OF_LARGE_IMAGES
    assert not OF_ANY_SIZE & OF_LARGE_IMAGES


def test_googlenet_is_built_without_auxiliary_heads() -> None:
    model = build_model("torchvision.models:googlenet", 28)
    logits = model(example_images(28, 2))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 10)
