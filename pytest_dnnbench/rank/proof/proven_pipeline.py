"""What the proof of a pipeline needs of its case, and how it runs the pipeline."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.planner.schedule import Schedule
from pytest_dnnbench.rank.pipeline.runtime import Completed, UpdateObserver
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.profiling.example_input import rows
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic
from pytest_dnnbench.rank.proof.conditions import ProofCopies, check_room
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.own_arithmetic import own_arithmetic
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.proof.trace_check import TraceCheck
from pytest_dnnbench.rank.proof.weight_versions import weights_met
from pytest_dnnbench.rank.workloads.batches import moved
from pytest_dnnbench.rank.workloads.image_models import weight_types
from pytest_dnnbench.rank.workloads.workload import Batch, Workload
from pytest_dnnbench.step_form import StepForm

Batches = Iterator[Batch]


class AnyRuntime(Protocol):
    """The runtime that a proof runs: ours, or that of torch's schedules."""

    device: torch.device

    @property
    def replica(self) -> int:
        """Which replica of its stages this rank is."""

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """The stages of this rank, by number."""

    def observe_updates(self, observer: UpdateObserver) -> None:
        """Lets `observer` see the gradients of each update, just before."""

    def train(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """As Runtime.train."""

    def validate(self, batches: Batches, minibatches: int) -> Iterator[Completed]:
        """As Runtime.validate."""

    def close(self) -> None:
        """Ends this rank's transfers."""


Assembled = Callable[
    [Sequence[nn.Module], Sgd | OwnRule, Callable[[], AbstractContextManager[object]]], AnyRuntime
]
"""(all stages, optimiser, the context of a forward pass) -> this rank's runtime."""


class Proven(Protocol):
    """What the proof needs of a case: its model, stages and minibatches."""

    place: Place
    request: RunRequest
    device: torch.device
    schedule: Schedule

    @property
    def proof_copies(self) -> ProofCopies:
        """Copies of the weights without which the proof cannot be."""

    def model(self, wide: bool = False) -> nn.Module:
        """The user's model with the weights that all ranks start from, on the rank's device, in its
        own types or in double precision."""

    def stages(self, wide: bool = False) -> list[nn.Module]:
        """The stages that the same model is traced and cut into."""

    def batch(self, index: int) -> Batch:
        """Minibatch `index` in its own types, on the rank's device."""

    def small_batch(self, index: int) -> Batch:
        """As `batch`, of the fewer samples that the runs in double precision need."""

    @property
    def workload(self) -> Workload:
        """What is trained."""

    @property
    def settings(self) -> Sgd:
        """The session's settings of SGD."""

    @property
    def rule(self) -> Sgd | OwnRule:
        """How the case's stages are updated."""

    @property
    def precision(self) -> str:
        """The case's."""

    @property
    def form(self) -> StepForm:
        """The case's."""

    @property
    def predicted_step_s(self) -> float:
        """The time of a minibatch that the plan predicts."""

    @property
    def proof_runs(self) -> tuple[int, int]:
        """Minibatches of the two runs in float64."""

    @property
    def proof_validation(self) -> int:
        """Minibatches of the validation."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass in the case's precision."""


def proof_runs(schedule: Schedule) -> tuple[int, int]:
    """Minibatches of the two runs in float64. Each part of them proves something:

    first run     its start        the warm-up: minibatches that meet the weights of the start
                  then             a steady state, up to the first minibatch at which no stage has
                                   one in flight that meets those; momentum of an earlier update
                  its end          the drain, in an incomplete update where a stage averages several
    second run    its minibatches  the pipeline filled again, with the weights, momentum and buffers
                                   that the drain left: one update, of two minibatches at least, so
                                   that one enters while another is in flight
    """
    stages = range(len(schedule.layout.replicas))
    first = 0
    while any(
        weights_met(schedule, stage, first) < _in_flight(schedule, stage) for stage in stages
    ):
        first += 1
    first += 1
    sizes = {schedule.update_size(stage) for stage in stages} - {1}
    while any(first % size == 0 for size in sizes):
        first += 1
    return first, max(2, update_size(schedule))


def _in_flight(schedule: Schedule, stage: int) -> int:
    """Versions that the minibatches in flight on a stage meet."""
    return schedule.warmup[stage] + 1 if schedule.variant == "pipedream" else 1


def update_size(schedule: Schedule) -> int:
    return max(schedule.update_size(stage) for stage in range(len(schedule.layout.replicas)))


@dataclass(slots=True)
class Checked:
    """What a look at the model as it is timed says: its arithmetic; its number of weights, and what
    each stage holds of it; what goes to the record. Its stages, as they are timed, run before they
    are made anew."""

    arithmetic: Arithmetic
    parameters: int
    owned: list[dict[str, str]]
    about: dict[str, Scalar]
    stages: list[nn.Module]

    def take_stages(self) -> list[nn.Module]:
        """The stages, for the one who runs them: given up here."""
        stages, self.stages = self.stages, []
        return stages


def checked_trace(proven: Proven, *, training: bool) -> Checked:
    """Cuts the model as it is timed, and checks its trace. Called on all ranks."""
    model = proven.model().train(training)
    check_room(proven.request.model, model, proven.place, proven.proof_copies)
    inputs, _ = proven.batch(0)
    about: dict[str, Scalar] = {
        "dtype": "float64",
        "weights": weight_types(model),
        "rows of a minibatch": rows(inputs),
    }
    if proven.form.changed:
        about["form"] = proven.form.label
    small = proven.small_batch(0)
    arithmetic = own_arithmetic(proven.workload, model, small, proven.precision, proven.autocast)
    stages = proven.stages()
    if proven.place.rank in (0, proven.place.world_size - 1):
        stages = [stage.to(proven.device).train(training) for stage in stages]
    ratio = trace_ratio(
        proven, TraceCheck(model, stages, inputs, proven.autocast, proven.workload.forward)
    )
    about["untraced forward over traced"] = round(ratio, 2)
    parameters = sum(each.numel() for each in model.parameters())
    return Checked(arithmetic, parameters, owned_by_stage(model, stages), about, stages)


def trace_ratio(proven: Proven, check: TraceCheck) -> float:
    """The time of the model's forward pass over that of its stages. The first rank checks what they
    compute and the last the time, at once. Raises WrongResult on all ranks, with what the first of
    them says."""
    rank, ranks, ratio, wrong = proven.place.rank, proven.place.world_size, 0.0, ""
    try:
        if rank == 0:
            check.check_computation(proven.precision)
        if rank == ranks - 1:
            ratio = check.check_time(proven.predicted_step_s)
    except WrongResult as error:
        wrong = str(error)
    said = [(0.0, "")] * ranks
    dist.all_gather_object(said, (ratio, wrong))
    if failures := [text for _, text in said if text]:
        raise WrongResult(failures[0])
    return said[-1][0]


def owned_by_stage(model: nn.Module, stages: Sequence[nn.Module]) -> list[dict[str, str]]:
    """What each stage holds of the model: a stage has the model's own names."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return [
        {
            name: name
            for name, _ in (*stage.named_parameters(), *stage.named_buffers())
            if name in names
        }
        for stage in stages
    ]


def share_of(runtime: AnyRuntime, schedule: Schedule, batches: Sequence[Batch]) -> Batches:
    """The batches of this rank's replica, on its device, in case it feeds them in."""
    share = batches[runtime.replica :: schedule.layout.replicas[0]]
    return (moved(batch, runtime.device) for batch in share)


def trained(runtime: AnyRuntime, schedule: Schedule, batches: Sequence[Batch]) -> Tensors:
    """The losses of a run on this rank, by the number of the minibatch."""
    with NoRandomness():
        completed = list(runtime.train(share_of(runtime, schedule, batches), len(batches)))
    return {str(done.minibatch): done.loss.cpu() for done in completed if done.loss is not None}
