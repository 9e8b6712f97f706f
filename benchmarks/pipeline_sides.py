"""The two sides of benchmarks/pipeline.py, as two ranks run them. See there."""

import statistics
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.functional import cross_entropy

from benchmarks.torchrun_loops import OneTensor
from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.cut import cut
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage import Stage
from pytest_dnnbench.rank.pipeline.stash import Stash
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.workloads.image_models import build_model, example_images

Groups = tuple[tuple[str, ...], ...]

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.001, 0.9, 5e-4
WARMUP_BATCHES = 2


def stages_of(model: str, image_size: int, groups: Groups) -> list[nn.Module]:
    """The two stages, alike on both ranks and both sides."""
    torch.manual_seed(0)
    return list(cut(build_model(model, image_size), example_images(image_size, 2), groups))


def plan_groups(model: str, image_size: int, size: int) -> Groups:
    """The operators of two stages of about equal time, from a profile on one thread."""
    profile = cached_profile(model, image_size, size, "fp32", "cpu", threads=1)
    return tuple(stage.operators for stage in even_plan(profile, (1, 1)).stages)


def batch(size: int, image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels in the model's form."""
    images = example_images(image_size, size)
    return images, torch.randint(10, (size,))


def ours(
    variant: str,
    model: str,
    image_size: int,
    groups: Groups,
    size: int,
    microbatches: int,
    batches: int,
) -> dict[str, float]:
    """Images per second of our runtime on this rank, and the seconds of its stage alone."""
    place = Place(dist.get_rank(), 2, "cpu", 1, "", 300.0)
    optimiser = Sgd(LEARNING_RATE, MOMENTUM, WEIGHT_DECAY)
    stages = stages_of(model, image_size, groups)
    alone_s = stage_alone(stages, place.rank, optimiser, size, image_size)
    schedule = Schedule(variant, Layout((1, 1)), 1 if variant == "pipedream" else microbatches)
    runtime = assemble(place, schedule, stages, optimiser)
    made = batch(size, image_size)
    warmup, start, work, seconds = WARMUP_BATCHES * microbatches, 0.0, 0.0, 0.0
    end = warmup + batches * microbatches
    # Keeps the pipeline full to the end of the timed part.
    run_on = 0 if variant == "pipedream-flush" else microbatches
    for done in runtime.train(iter(lambda: made, None), end + run_on):
        if done.minibatch == warmup - 1:
            start, work = time.perf_counter(), time.process_time()
        if done.minibatch == end - 1:
            seconds, work = time.perf_counter() - start, time.process_time() - work
    runtime.close()
    images = batches * microbatches * size
    cpu_s = work / (batches * microbatches)
    return {
        "img_s": images / seconds,
        "alone_s": alone_s,
        "bubble": bubble(runtime, warmup, end),
        "cpu_s": cpu_s,
    }


def bubble(runtime: Runtime, begin: int, end: int) -> float:
    """The fraction of the time in which this rank did not compute."""
    fraction = runtime.occupancy.bubble_fraction(begin, end)
    assert fraction is not None
    return fraction


def stage_alone(
    stages: list[nn.Module], rank: int, optimiser: Sgd, size: int, image_size: int
) -> float:
    """Median seconds of this rank's stage for one minibatch, update included; both ranks compute at
    the same time."""
    images, labels = batch(size, image_size)
    inputs: tuple[torch.Tensor, ...] = (images,)
    if rank == 1:
        with torch.no_grad():
            inputs = tuple(tensor.clone().requires_grad_() for tensor in stages[0](images))
    stash = Stash(stages[rank], optimiser)
    stage = Stage(stages[rank], stash, cross_entropy if rank else None)
    dist.barrier()
    seconds = []
    for minibatch in range(15):
        start = time.perf_counter()
        outputs = stage.forward(minibatch, minibatch, inputs, labels)
        gradients = (
            None
            if rank
            else [torch.ones_like(tensor) for tensor in outputs if tensor.requires_grad]
        )
        _, to_parameters = stage.backward(minibatch, gradients)
        stash.update(to_parameters, minibatch + 1)
        seconds.append(time.perf_counter() - start)
    dist.barrier()
    return statistics.median(seconds[5:])


def theirs(
    model: str, image_size: int, groups: Groups, size: int, microbatches: int, batches: int
) -> dict[str, float]:
    """Images per second of Schedule1F1B on this rank."""
    rank = dist.get_rank()
    module = stages_of(model, image_size, groups)[rank]
    module = OneTensor(module) if rank else module
    stage = PipelineStage(module, rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(stage, microbatches, loss_fn=cross_entropy)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    images, labels = batch(size * microbatches, image_size)
    start = work = 0.0
    for number in range(WARMUP_BATCHES + batches):
        if number == WARMUP_BATCHES:
            start, work = time.perf_counter(), time.process_time()
        if rank:
            schedule.step(target=labels, losses=[])
        else:
            schedule.step(images)
        optimizer.step()
        optimizer.zero_grad()
    seconds, work = time.perf_counter() - start, time.process_time() - work
    return {
        "img_s": batches * microbatches * size / seconds,
        "cpu_s": work / (batches * microbatches),
    }
