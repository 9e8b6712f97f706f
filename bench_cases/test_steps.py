"""A training step and a validation step of every framework, model and number of devices that the
options ask for."""

from collections.abc import Callable

from pytest_dnnbench import DnnBench, Ranks

ProcessGroup = Callable[[int], Ranks]


def test_train(
    framework: str, model: str, gpus: int, process_group: ProcessGroup, dnnbench: DnnBench
) -> None:
    """Forward pass, backward pass with the exchange of gradients, update of the weights."""
    dnnbench.measure(framework, model, process_group(gpus), phase="train")


def test_validate(
    framework: str, model: str, gpus: int, process_group: ProcessGroup, dnnbench: DnnBench
) -> None:
    """Forward pass and loss, in evaluation mode and without gradients."""
    dnnbench.measure(framework, model, process_group(gpus), phase="validate")
