"""The floating-point operations that a model needs for a sample: the numerator of MFU (model FLOPs
utilisation; Chowdhery et al., "PaLM", 2022, appendix B).

They are counted on torch's device "meta", which computes shapes and no values, from the model that
the user gave, whatever a framework makes of it: what a framework computes twice does not count. A
multiplication and an addition are two operations. Counted are matrix products, convolutions and
attention (torch.utils.flop_counter); everything else is small beside them.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.workloads.batches import moved, synthetic_batch
from pytest_dnnbench.rank.workloads.checks import model_of, samples_of
from pytest_dnnbench.rank.workloads.factory import workload_of

FACT = "flops_per_sample"
"""The name of the count among the facts of a proof."""


def flops_per_sample(request: RunRequest) -> float | None:
    """Of forward and backward pass in training, of the forward pass in validation; None for a model
    that needs values or does nothing of what is counted, and for a minibatch without samples."""
    workload, case = workload_of(request), request.case
    train, meta = case.phase == "train", torch.device("meta")
    try:
        model = model_of(workload).to(meta).train(train)
        size = min(workload.proof_size, case.batch_size)
        batch = synthetic_batch(workload, 0, 0, torch.device("cpu"), size=size, seed=case.seed)
        samples = samples_of(workload, batch[0])
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
            loss = workload.loss_of(model, moved(batch, meta))
            if train:
                loss.backward()  # type: ignore[no-untyped-call] # torch's gap
    except (NotImplementedError, RuntimeError, TypeError):
        return None  # as of a model that looks at its values; a TypeError comes of Tensor.numpy
    return counter.get_total_flops() / samples or None if samples else None
