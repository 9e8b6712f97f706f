"""An example of the input of a workload that is to be cut into stages: one tensor.

Not here: batches that are trained on (workloads/batches.py).
"""

import torch

from pytest_dnnbench.errors import WorkloadRefused
from pytest_dnnbench.rank.workloads.batches import synthetic_batch
from pytest_dnnbench.rank.workloads.workload import Workload


def example_input(workload: Workload, size: int, number: int = 0) -> torch.Tensor:
    """The inputs of synthetic minibatch `number`, of so many samples, on the host, the same each
    time. Raises WorkloadRefused where inputs or targets are not one tensor each: the operators of a
    pipeline's first stage take one, and the last stage gets one beside its activations."""
    batch = synthetic_batch(workload, 0, number, torch.device("cpu"), size=size, seed=0)
    for part, tree in zip(("inputs", "targets"), batch, strict=True):
        if not isinstance(tree, torch.Tensor):
            raise WorkloadRefused(
                f"the {part} of {type(workload).__name__}.batch are a {type(tree).__name__}, and a"
                " pipeline takes one tensor: pack them into one, and take it apart in the model or"
                " the loss; single, ddp, horovod and fsdp take them as they are"
            )
    inputs: torch.Tensor = batch[0]
    return inputs
