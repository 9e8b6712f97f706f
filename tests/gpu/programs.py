"""The programs that these checks run on ranks: top-level functions, imported there by name."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import Backward, Forward, Schedule
from pytest_dnnbench.rank.pipeline.links import Links
from pytest_dnnbench.rank.profiling.profiler import Effort, parts_over_whole, profile_model


@dataclass(frozen=True)
class ProfileFacts:
    """Of a profile; seconds of a convolution and of a ReLU of the last layers."""

    parts_over_whole: float
    host_ahead: bool
    host_s: float
    whole_s: float
    convolution_s: float
    relu_s: float


def profile_facts() -> ProfileFacts:
    """Profiles resnet18 at 28 pixels."""
    profile = profile_model(
        "torchvision.models:resnet18", 28, 16, "bf16", "cuda:0", effort=Effort(3, 10)
    )
    times = {
        operator.id: operator.forward_s + operator.backward_s for operator in profile.operators
    }
    facts = profile.metadata
    return ProfileFacts(
        parts_over_whole(profile),
        bool(facts["host_ahead"]),
        float(facts["host_s"]),
        float(facts["whole_s"]),
        times["layer4_1_conv2"],
        times["layer4_1_relu"],
    )


def contexts_elsewhere() -> list[int]:
    """The GPUs, besides its own, on which this rank of two stages has a context after it has sent
    and received."""
    rank, device = dist.get_rank(), torch.device("cuda", torch.cuda.current_device())
    links = Links(Schedule("pipedream", Layout((1, 1))), rank, device, 30.0)
    tensors = (torch.ones(1 << 20, device=device, requires_grad=True),)
    links.expect([Backward(0)] if rank == 0 else [Forward(0, 0)])
    if rank == 0:
        links.send_activations(0, tensors, 1)
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
