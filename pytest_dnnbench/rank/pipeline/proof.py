"""The correctness gate of a pipeline: a few short runs in float64, held against the reference on
every rank.

Two runs, so that the drain between them and the stash right after it are checked as well; neither a
multiple of anything. Dropout and stochastic depth are off: their draws differ between a rank and
its reference.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.messages import Correctness, Place
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.reference import Named, PipelineReference
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.stash import Sgd
from pytest_dnnbench.rank.reference import deviation, without_randomness

TOLERANCE = 1e-10
"""In float64, relative to the largest element: the pipeline does the reference's sums, replicas in
another order."""

Batch = tuple[torch.Tensor, torch.Tensor]


def proof_runs(schedule: Schedule) -> tuple[int, int]:
    """Minibatches of the two runs: past the warm-up of the first stage, and into a last, incomplete
    update."""
    size = max(schedule.update_size(stage) for stage in range(len(schedule.layout.replicas)))
    return 2 * max(size, schedule.layout.world_size) + 1, size + 1


def prove_training(
    place: Place,
    schedule: Schedule,
    stages: Sequence[nn.Module],
    optimiser: Sgd,
    batch: Callable[[int], Batch],
    assembled: Callable[..., Runtime] = assemble,
) -> Correctness:
    """Trains on batch(0), batch(1), ... and compares parameters, buffers and losses of this rank's
    replica."""
    for stage in stages:
        without_randomness(stage).train()
    reference = PipelineReference(stages, schedule, optimiser, cross_entropy)
    runtime = assembled(place, schedule, stages, optimiser)
    seen = dict.fromkeys(("parameters", "buffers", "loss"), 0.0)
    failures: list[str] = []
    start = 0
    for number, minibatches in enumerate(proof_runs(schedule)):
        batches = [batch(start + index) for index in range(minibatches)]
        start += minibatches
        losses = _trained(runtime, batches)
        for what, (found, where) in _deviations(
            runtime, reference, losses, reference.run(batches)
        ).items():
            seen[what] = max(seen[what], found)
            if not found <= TOLERANCE:
                stage_number = runtime.links.stage
                failures.append(
                    f"{what} of stage {stage_number} after run {number}: {where} deviates by {found:.3g}"
                )
    runtime.close()
    return Correctness(
        seen,
        dict.fromkeys(seen, TOLERANCE),
        tuple(failures),
        {
            "reference": "one process, the update rule minibatch by minibatch",
            "dtype": "float64",
            "minibatches": start,
            "runs": len(proof_runs(schedule)),
        },
    )


def _shard(runtime: Runtime, batches: Sequence[Batch]) -> Iterator[Batch]:
    """The batches that this rank feeds in, on its device, if it is one of the first stage."""
    first = runtime.schedule.layout.replicas[0]
    device = runtime.device
    return (
        (images.to(device), labels.to(device))
        for images, labels in batches[runtime.links.replica :: first]
    )


def _trained(runtime: Runtime, batches: Sequence[Batch]) -> Named:
    """The losses that this rank sees in a run, by the number of the minibatch."""
    completed = runtime.train(_shard(runtime, batches), len(batches))
    return {str(done.minibatch): done.loss.cpu() for done in completed if done.loss is not None}


def _deviations(
    runtime: Runtime, reference: PipelineReference, losses: Named, expected: Sequence[float]
) -> dict[str, tuple[float, str]]:
    stage, replica, module = runtime.links.stage, runtime.links.replica, runtime.stage.module
    wanted = {name: torch.tensor(expected[int(name)], dtype=torch.float64) for name in losses}
    return {
        "parameters": deviation(_on_host(module.named_parameters()), reference.parameters(stage)),
        "buffers": deviation(_on_host(module.named_buffers()), reference.buffers(stage, replica)),
        "loss": deviation(losses, wanted),
    }


def _on_host(tensors: Iterable[tuple[str, torch.Tensor]]) -> Named:
    return {name: tensor.detach().cpu() for name, tensor in tensors}


def prove_validation(
    place: Place, schedule: Schedule, stages: Sequence[nn.Module], batch: Callable[[int], Batch]
) -> Correctness:
    """Validates a few batches and compares each loss and count of right answers with those of the
    plain stages."""
    batches = [batch(index) for index in range(schedule.layout.world_size + 1)]
    wanted = {number: _evaluated(stages, *each) for number, each in enumerate(batches)}
    runtime = assemble(place, schedule, stages, Sgd(0.0))
    replica, replicas = runtime.links.replica, schedule.layout.replicas[-1]
    got: Named = {}
    for done in runtime.validate(_shard(runtime, batches), len(batches)):
        if done.loss is not None and done.correct is not None:
            got |= {
                f"loss {done.minibatch}": done.loss.cpu(),
                f"correct {done.minibatch}": done.correct.cpu(),
            }
    runtime.close()
    mine = (
        range(replica, len(batches), replicas)
        if runtime.links.stage == schedule.layout.last
        else range(0)
    )
    want = {f"{what} {number}": value for number in mine for what, value in wanted[number].items()}
    found, where = deviation(got, want)
    failures = (
        ()
        if found <= TOLERANCE
        else (f"validation {where} of rank {place.rank} deviates by {found:.3g}",)
    )
    return Correctness(
        {"validation": found},
        {"validation": TOLERANCE},
        failures,
        {
            "reference": "the stages one after the other, in evaluation mode",
            "dtype": "float64",
            "minibatches": len(batches),
        },
    )


@torch.no_grad()
def _evaluated(stages: Sequence[nn.Module], images: torch.Tensor, labels: torch.Tensor) -> Named:
    values: tuple[torch.Tensor, ...] = (images,)
    for stage in stages:
        values = stage.eval()(*values)
    return {
        "loss": cross_entropy(values[0], labels),
        "correct": (values[0].argmax(1) == labels).sum(),
    }
