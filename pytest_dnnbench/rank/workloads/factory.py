"""From "package.module:factory" to a workload.

    a torchvision model, a module, a factory of one ──> ImageWorkload around it
    a Workload class, a factory of a workload       ──> that workload

Not here: the names that stand for such a path (catalog/models.py).
"""

import inspect

from pytest_dnnbench.case import image_form
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.workloads.checks import check_settings
from pytest_dnnbench.rank.workloads.image_models import (
    call_factory,
    factory_of,
    is_torchvision,
    module_class,
)
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.workload import Workload


def workload_of(request: RunRequest) -> Workload:
    """The workload that a request names. A factory is called with those of the arguments
    `channels`, `classes`, `image_size`, `sequence_length` (0: the model's own) and `text` (a
    TextFile or None) that it takes.

    Raises UsageError for a path that leads to neither a module nor a workload, and for data that
    the workload does not take.
    """
    case, target = request.case, request.model
    images = ImageWorkload(target, case.image_size, request.data)
    if is_torchvision(target) or module_class(factory := factory_of(target)):
        product: object = None
    else:
        # A function tells only by what it returns.
        product = call_factory(factory, target, _offered(request))
    if not isinstance(product, Workload):
        _refuse(request.text is not None, "text", target, "images", "model of tokens, as gpt-tiny")
        return images
    _refuse(request.data is not None, "mnist", target, "its own data", "module that takes images")
    _refuse(
        request.text is not None and "text" not in inspect.signature(factory).parameters,
        "text",
        target,
        "its own data",
        "factory with the parameter `text`",
    )
    check_settings(product)
    return product


def _offered(request: RunRequest) -> dict[str, object]:
    channels, classes = image_form(request.case.image_size)
    return {
        "channels": channels,
        "classes": classes,
        "image_size": request.case.image_size,
        "sequence_length": request.case.sequence_length,
        "text": request.text,
    }


def _refuse(wrong: bool, dataset: str, target: str, data: str, other: str) -> None:
    if wrong:
        raise UsageError(
            f"--dnn-dataset {dataset} with {target!r}, which takes {data}: use --dnn-dataset"
            f" synthetic, or a {other}"
        )
