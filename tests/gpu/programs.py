"""The programs that these checks run on ranks: top-level functions, imported there by name."""

import torch
import torch.distributed as dist

from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule
from pytest_dnnbench.rank.pipeline.links import Links


def contexts_elsewhere() -> list[int]:
    """The GPUs, besides its own, on which this rank of two stages has a context after it has sent
    and received."""
    rank, device = dist.get_rank(), torch.device("cuda", torch.cuda.current_device())
    links = Links(Schedule("pipedream", Layout((1, 1))), rank, device, 30.0)
    tensors = (torch.ones(1 << 20, device=device, requires_grad=True),)
    links.expect([Backward(0)] if rank == 0 else [Forward(0, 0)])
    if rank == 0:
        links.send_activations(0, tensors)
        links.take_gradients(0)
    else:
        links.take_activations(0)
        links.send_gradients(0, tensors)
    torch.cuda.synchronize(device)
    links.close()
    return [
        index
        for index in range(torch.cuda.device_count())
        if index != device.index and torch._C._cuda_hasPrimaryContext(index)  # type: ignore[attr-defined] # CUDA builds
    ]
