"""What our frameworks share: they train a workload, and a forward pass runs in the case's
precision."""

from functools import cached_property

import torch

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Sample
from pytest_dnnbench.rank import precision
from pytest_dnnbench.rank.worker import Worker
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.workload import Workload


class WorkloadWorker(Worker):
    """A rank that trains the request's workload."""

    @cached_property
    def workload(self) -> Workload:
        """The workload behind the case's model."""
        return workload_of(self.request)

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
