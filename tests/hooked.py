"""A model and a framework that a test's conftest adds through the hooks; each leaves a trace of
having run on a rank."""

import os
from pathlib import Path

from torch import nn

from pytest_dnnbench.rank.frameworks.single import SingleWorker
from tests.tiny_models import tiny

TRACE = "DNNBENCH_TEST_TRACE"
"""The environment variable with the folder for the traces."""


def leave_trace(name: str) -> None:
    """Adds this process to the trace of a name."""
    with (Path(os.environ[TRACE]) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def hooked_model(channels: int, classes: int) -> nn.Module:
    """A tiny model in place of a large one."""
    leave_trace("model")
    return tiny(channels, classes)


class HookedWorker(SingleWorker):
    """`single`, under another name."""

    def build(self) -> None:
        """The model of the case."""
        leave_trace("framework")
        super().build()

    def details(self) -> dict[str, object]:
        """The target of the model as this rank was asked for it, and the rank's process."""
        return {"model": self.request.model, "pid": os.getpid()}
