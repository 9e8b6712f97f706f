"""Lets torchvision load without its compiled operators: a CUDA wheel of torchvision on a CPU build
of torch.

torchvision declares its operators in a compiled library, then registers shape functions for two of
them. Where that library does not load, the second step stops with "operator torchvision::nms does
not exist", and no part of torchvision can be imported, although its models, datasets and transforms
are pure Python. It is enough to declare the two schemas. They get no implementation: a call of one
still fails, as it should. Not here: the models (image_models.py).
"""

import importlib
import sys
from types import ModuleType

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []
"""Keeps the libraries: one that is collected takes its declarations back."""


def load_torchvision() -> ModuleType:
    """Imports torchvision and returns it. Declares the operators only if the import fails for lack
    of them. Any other error of the import is raised unchanged."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    _forget_the_half_import()
    _declare_missing()
    return importlib.import_module("torchvision")


def _forget_the_half_import() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_missing() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call] # torch's gap
    _declared.append(library)
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call] # torch's gap
