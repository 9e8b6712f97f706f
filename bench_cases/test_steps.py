"""The suite: a training step and a validation step of every framework, model and number of devices
asked for."""

from collections.abc import Callable

from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.session.bench import DnnBench

Group = Callable[[int], Ranks]


def test_train(
    framework: str, model: str, gpus: int, process_group: Group, dnnbench: DnnBench
) -> None:
    """Forward, backward with the exchange of gradients, update."""
    dnnbench.measure(framework, model, process_group(gpus), phase="train")


def test_validate(
    framework: str, model: str, gpus: int, process_group: Group, dnnbench: DnnBench
) -> None:
    """Forward and loss, in evaluation mode and without gradients."""
    dnnbench.measure(framework, model, process_group(gpus), phase="validate")
