"""Builds a model from its "package.module:factory", in MNIST's or ImageNet's form. Importing this
imports torchvision.

Not here: the names that stand for models (catalog/models.py; the pytest process looks them
up), the images (mnist.py).
"""

import importlib
import inspect
import random
from collections.abc import Callable, Mapping
from operator import attrgetter

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pytest_dnnbench.case import image_form
from pytest_dnnbench.catalog.models import OF_LARGE_IMAGES
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.workloads.torchvision_ops import load_torchvision

load_torchvision()

_WITHOUT_AUXILIARY_HEADS = {
    f"torchvision.models:{name}": {"aux_logits": False, "init_weights": True}
    for name in ("googlenet", "inception_v3")
}
"""In training these would return the logits of two more heads, which ours and every other loss on
logits does not take."""


def example_images(image_size: int, batch_size: int) -> torch.Tensor:
    """Standard normal images from torch's generator, (batch, channels, size, size), in the form of
    the size."""
    return torch.randn(batch_size, image_form(image_size)[0], image_size, image_size)


def build_model(target: str, image_size: int) -> nn.Module:
    """The model of "package.module:factory", with fresh weights from torch's generator, on the CPU,
    in training mode. Its weights have the types that the factory gives them. Lazy layers get their
    weights here, from a pass over example images in evaluation mode.

    A torchvision model gets as many classes as the form has, no auxiliary heads, and in MNIST's
    form a first convolution for one channel. A user's factory, or class, is called with those of
    the arguments `channels` and `classes` that it takes. Raises UsageError for a target that is no
    such path, for a factory that is missing, cannot be called or makes no module, and for a model
    of torchvision that does not take images of this size.
    """
    channels, classes = image_form(image_size)
    if is_torchvision(target):
        if channels == 1 and target in OF_LARGE_IMAGES:
            raise UsageError(
                f"model {target!r} does not take MNIST's images of {image_size} pixels: give"
                " --dnn-image-size 224"
            )
        without_heads = _WITHOUT_AUXILIARY_HEADS.get(target, {})
        model = _checked(factory_of(target)(num_classes=classes, **without_heads), target)
        _accept_channels(model, channels)
    else:
        form = {"channels": channels, "classes": classes}
        model = _checked(call_factory(factory_of(target), target, form), target)
    _materialise(model, image_size)
    return model.train()


def is_torchvision(target: str) -> bool:
    """Whether a path leads to a model of torchvision, which is built in the form of the images."""
    return target.startswith("torchvision.")


def seed(number: int) -> None:
    """Seeds every generator that a factory may draw weights from: torch's, Python's and NumPy's.

    torch.manual_seed would also note, with a stack trace for each kind of device, what is to be
    seeded where that device is used later: a quarter of the processor time in which a rank with a
    small model starts. A rank on a GPU has used it by now (group.take_place).
    """
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's gap
        torch.cuda.manual_seed_all(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def widen(model: nn.Module) -> nn.Module:
    """The model with every floating-point tensor in double precision, complex ones included. Each
    value is kept exactly."""
    model._apply(widened)  # type: ignore[no-untyped-call] # torch's gap
    return model


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """A floating-point tensor in double precision; any other as it is."""
    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))


_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


def weight_types(model: nn.Module) -> str:
    """The types of a model's parameters, for the record: "float32", "bfloat16, float32"."""
    return ", ".join(
        sorted({str(each.dtype).removeprefix("torch.") for each in model.parameters()})
    )


def _materialise(model: nn.Module, image_size: int) -> None:
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        with torch.no_grad():
            model.eval()(example_images(image_size, 2))


def factory_of(path: str) -> Callable[..., object]:
    """The function or class behind "package.module:factory". Raises UsageError where there is
    none."""
    module_name, colon, attribute = path.partition(":")
    if not colon:
        raise UsageError(f"model {path!r} is not of the form package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"model {path!r}: module {module_name!r} cannot be imported ({error})"
        ) from error
    try:
        factory = attrgetter(attribute)(module)
    except AttributeError:
        raise UsageError(
            f"model {path!r}: {module_name} has no {attribute!r}: check the spelling"
        ) from None
    if not callable(factory):
        raise UsageError(
            f"model {path!r} is of type {type(factory).__name__} and cannot be called: "
            "name a function or class that makes the model"
        )
    return factory  # type: ignore[no-any-return] # callable() has just been checked


def module_class(factory: Callable[..., object]) -> bool:
    """Whether a factory is a class of modules."""
    return isinstance(factory, type) and issubclass(factory, nn.Module)


def call_factory(
    factory: Callable[..., object], path: str, offered: Mapping[str, object]
) -> object:
    """What a factory makes of those of the offered arguments that it takes. Raises UsageError where
    it needs others."""
    signature = inspect.signature(factory)
    arguments = {key: value for key, value in offered.items() if key in signature.parameters}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"model {path!r}: its factory takes {signature} and is called with {sorted(arguments)}"
            f" ({error}): give its other parameters defaults"
        ) from None
    return factory(**arguments)


def _checked(model: object, path: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model {path!r} made a {type(model).__name__}: make it return a torch.nn.Module or a"
            " pytest_dnnbench.Workload"
        )
    return model


def _accept_channels(model: nn.Module, channels: int) -> None:
    """Rebuilds the model's first convolution for this number of channels, initialised as
    torchvision does."""
    name, convolution = next(
        (name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d)
    )
    if convolution.in_channels == channels:
        return
    rebuilt = nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type] # a pair, typed as a tuple of any length
        convolution.stride,  # type: ignore[arg-type] # as above
        convolution.padding,  # type: ignore[arg-type] # as above
        bias=convolution.bias is not None,
    )
    nn.init.kaiming_normal_(rebuilt.weight, mode="fan_out")
    model.set_submodule(name, rebuilt)
