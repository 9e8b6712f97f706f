"""From "package.module:factory" to a workload.

    a torchvision model, a module, a factory of one ──> ImageWorkload around it
    a Workload class, a factory of a workload       ──> that workload

Not here: the names that stand for such a path (catalog.py).
"""

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.image_workload import ImageWorkload
from pytest_dnnbench.rank.models import call_factory, factory_of, is_torchvision, module_class
from pytest_dnnbench.rank.workload import Workload


def workload_of(request: RunRequest) -> Workload:
    """The workload that a request names. A factory is called with those of the arguments
    `channels`, `classes` and `image_size` that it takes.

    Raises UsageError for a path that leads to neither a module nor a workload, and for MNIST where
    the workload is no image classifier.
    """
    case, target = request.case, request.model
    images = ImageWorkload(target, case.image_size, request.data)
    if is_torchvision(target):
        return images
    factory = factory_of(target)
    if module_class(factory):
        return images
    # A function tells only by what it returns.
    made = call_factory(factory, target, case.image_size)
    if not isinstance(made, Workload):
        return images
    if request.data is not None:
        raise UsageError(
            f"--dnn-dataset mnist with {target!r}, which brings its own data: use"
            " --dnn-dataset synthetic, or a module that takes images"
        )
    return made
