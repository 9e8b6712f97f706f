"""The proof of a pipeline: a few short runs in float64, compared with the reference (reference.py)
on every rank.

Two runs check the drain between them, and the stash right after it. Neither number of minibatches
is a multiple of anything. Dropout and stochastic depth are off: a rank and its reference draw
different numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.messages import Correctness, Place
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.assembly import assemble
from pytest_dnnbench.rank.pipeline.reference import Named, PipelineReference
from pytest_dnnbench.rank.pipeline.runtime import Runtime
from pytest_dnnbench.rank.pipeline.stash import Sgd
from pytest_dnnbench.rank.reference import deviation, without_randomness

TOLERANCE = 1e-10
"""In float64, relative to the largest element: the pipeline computes the reference's sums, over
replicas in another order."""

Batch = tuple[torch.Tensor, torch.Tensor]


def proof_runs(schedule: Schedule) -> tuple[int, int]:
    """Minibatches of the two runs: enough to pass the warm-up of the first stage, and to end in an
    incomplete update."""
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
    replica after each run."""
    for stage in stages:
        without_randomness(stage).train()
    reference = PipelineReference(stages, schedule, optimiser, cross_entropy)
    runtime = assembled(place, schedule, stages, optimiser)
    largest = dict.fromkeys(("parameters", "buffers", "loss"), 0.0)
    failures: list[str] = []
    done = 0
    for number, minibatches in enumerate(proof_runs(schedule)):
        batches = [batch(done + index) for index in range(minibatches)]
        done += minibatches
        losses = _trained(runtime, batches)
        deviations = _deviations(runtime, reference, losses, reference.run(batches))
        for kind, (deviates, where) in deviations.items():
            largest[kind] = max(largest[kind], deviates)
            if not deviates <= TOLERANCE:
                failures.append(
                    f"{kind} of stage {runtime.links.stage} after run {number}:"
                    f" {where} deviates by {deviates:.3g}"
                )
    runtime.close()
    about: dict[str, Scalar] = {
        "reference": "one process, the update rule minibatch by minibatch",
        "dtype": "float64",
        "minibatches": done,
        "runs": len(proof_runs(schedule)),
    }
    return Correctness(largest, dict.fromkeys(largest, TOLERANCE), tuple(failures), about)


def _share(runtime: Runtime, batches: Sequence[Batch]) -> Iterator[Batch]:
    """The batches that this rank feeds in, on its device, if it is a replica of the first stage."""
    feeders = runtime.schedule.layout.replicas[0]
    device = runtime.device
    return (
        (images.to(device), labels.to(device))
        for images, labels in batches[runtime.links.replica :: feeders]
    )


def _trained(runtime: Runtime, batches: Sequence[Batch]) -> Named:
    """The losses of a run on this rank, by the number of the minibatch."""
    completed = runtime.train(_share(runtime, batches), len(batches))
    return {str(done.minibatch): done.loss.cpu() for done in completed if done.loss is not None}


def _deviations(
    runtime: Runtime, reference: PipelineReference, losses: Named, expected: Sequence[float]
) -> dict[str, tuple[float, str]]:
    """By kind, the largest deviation and the name of its tensor."""
    stage, replica, module = runtime.links.stage, runtime.links.replica, runtime.stage.module
    expected_losses = {
        name: torch.tensor(expected[int(name)], dtype=torch.float64) for name in losses
    }
    return {
        "parameters": deviation(_on_host(module.named_parameters()), reference.parameters(stage)),
        "buffers": deviation(_on_host(module.named_buffers()), reference.buffers(stage, replica)),
        "loss": deviation(losses, expected_losses),
    }


def _on_host(tensors: Iterable[tuple[str, torch.Tensor]]) -> Named:
    return {name: tensor.detach().cpu() for name, tensor in tensors}


def prove_validation(
    place: Place, schedule: Schedule, stages: Sequence[nn.Module], batch: Callable[[int], Batch]
) -> Correctness:
    """Validates a few batches, and compares each loss and number of right answers with those of the
    plain stages."""
    batches = [batch(index) for index in range(schedule.layout.world_size + 1)]
    expected = {number: _evaluated(stages, *each) for number, each in enumerate(batches)}
    runtime = assemble(place, schedule, stages, Sgd(0.0))
    replica, replicas = runtime.links.replica, schedule.layout.replicas[-1]
    got: Named = {}
    for done in runtime.validate(_share(runtime, batches), len(batches)):
        if done.loss is not None and done.correct is not None:
            got[f"loss {done.minibatch}"] = done.loss.cpu()
            got[f"correct {done.minibatch}"] = done.correct.cpu()
    runtime.close()
    is_last = runtime.links.stage == schedule.layout.last
    share = range(replica, len(batches), replicas) if is_last else range(0)
    expected_here = {
        f"{kind} {number}": value for number in share for kind, value in expected[number].items()
    }
    deviates, where = deviation(got, expected_here)
    failure = f"validation {where} of rank {place.rank} deviates by {deviates:.3g}"
    about: dict[str, Scalar] = {
        "reference": "the stages one after the other, in evaluation mode",
        "dtype": "float64",
        "minibatches": len(batches),
    }
    failures = () if deviates <= TOLERANCE else (failure,)
    return Correctness({"validation": deviates}, {"validation": TOLERANCE}, failures, about)


@torch.no_grad()
def _evaluated(stages: Sequence[nn.Module], images: torch.Tensor, labels: torch.Tensor) -> Named:
    values: tuple[torch.Tensor, ...] = (images,)
    for stage in stages:
        values = stage.eval()(*values)
    return {
        "loss": cross_entropy(values[0], labels),
        "correct": (values[0].argmax(1) == labels).sum(),
    }
