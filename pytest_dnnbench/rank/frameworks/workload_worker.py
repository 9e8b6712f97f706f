"""What our frameworks share: they train a workload, and a forward pass runs in the case's
precision."""

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank import precision
from pytest_dnnbench.rank.worker import Worker
from pytest_dnnbench.rank.workloads.checks import model_of
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.image_models import seed
from pytest_dnnbench.rank.workloads.workload import Workload


class WorkloadWorker(Worker):
    """A rank that trains the request's workload."""

    drawing: AbstractContextManager[object] = nullcontext()
    """Around the making of a model. A proof, which makes several, remembers what they draw."""

    @cached_property
    def workload(self) -> Workload:
        """The workload behind the case's model."""
        return workload_of(self.request)

    def model_from(self, first: int) -> nn.Module:
        """The workload's model, for training, on the host, with the weights that follow from the
        seed `first`."""
        workload = self.workload  # made before the seed is set: a user's factory may draw numbers
        seed(first)
        with self.drawing:
            return model_of(workload).train()

    @property
    def sample(self) -> Sample:
        """As Worker.sample: the workload's."""
        return self.workload.sample

    def data_facts(self) -> dict[str, Scalar]:
        """As Worker.data_facts: the workload's."""
        return self.workload.data_facts()

    def autocast(self, dtype: torch.dtype = torch.float32) -> torch.autocast:
        """The context of one forward pass of a model in this type."""
        return precision.autocast(self.case.precision, self.device, dtype)
