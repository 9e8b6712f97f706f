"""Every framework on two and four ranks trains what plain torch trains in one process: in float64,
parameter by parameter, buffer by buffer, loss by loss; and its step is proven in the timed types.

The reference of these tests is their own. Not here: faults that a proof must catch, and what is
special to a framework, which tests of that framework have."""

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Correctness, PlanDecision, RunRequest
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.synchronous import RULES
from pytest_dnnbench.rank.profiling.profiler import Effort, profile_model
from pytest_dnnbench.results.records.rank_agreement import agree
from tests.patience import HANG_S
from tests.rank import small_training
from tests.rank.small_training import Trained, Training

SIZE = 4
"""Samples in a minibatch."""

TOLERANCE = 1e-11

PROGRAM = f"{small_training.__name__}:prove_and_train"

Versions = Callable[[int, int], int]
"""(stage, update) -> how many updates the weights have behind them that the minibatches of this
update meet on this stage."""


def newest(stage: int, update: int) -> int:
    """All that there are: every synchronous framework."""
    return update


def before_the_last(stage: int, update: int) -> int:
    """PipeDream-2BW: those of the batch before the last, on every stage."""
    return max(0, update - 1)


@dataclass(frozen=True)
class Way:
    """How ranks train a model together.

    replicas      of the model, each on its own shard of the data
    stages        that a replica is cut into; 1 where it is not
    minibatches   of an update, over all replicas
    share         by how much a minibatch is larger than the case's: ranks that share one
    versions      of the weights that minibatches meet
    """

    framework: str
    gpus: int
    replicas: int
    options: dict[str, Scalar] = field(default_factory=dict)
    stages: int = 1
    minibatches: int = 1
    share: int = 1
    versions: Versions = newest

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.options.items()]
        return "-".join([self.framework, str(self.gpus), *options])


def data_parallel(framework: str, gpus: int) -> Way:
    """A replica on each rank."""
    return Way(framework, gpus, gpus, minibatches=gpus)


def tensor_parallel(gpus: int, width: int, **options: Scalar) -> Way:
    """Replicas of so many ranks."""
    replicas = gpus // width
    return Way("tp", gpus, replicas, options, minibatches=replicas, share=width)


def schedule(framework: str, gpus: int, length: int, **options: Scalar) -> Way:
    """Pipelines of torch's, of so many ranks: with as many microbatches as ranks, but for two that
    say otherwise."""
    replicas = gpus // length
    minibatches = {"mp": replicas, "dualpipev": 2 * gpus}.get(framework, gpus)
    of_each = 1 if framework in ("mp", "gpipe", "1f1b") else 2
    return Way(framework, gpus, replicas, options, length * of_each, minibatches)


def pipedream(variant: str, gpus: int, stages: int) -> Way:
    """Pipelines of ours, in which a minibatch of `pipedream` meets on a stage the weights before
    the updates of those that are between this stage and the last."""
    versions: Mapping[str, Versions] = {
        "pipedream": lambda stage, update: max(0, update - (stages - 1 - stage)),
        "pipedream-2bw": before_the_last,
        "pipedream-flush": newest,
    }
    replicas = gpus // stages
    minibatches = replicas if variant == "pipedream" else gpus
    options: dict[str, Scalar] = {"stages": str(stages)}
    return Way(variant, gpus, replicas, options, stages, minibatches, versions=versions[variant])


MODELS = ("Normalised", "Attending")

CASES = [
    *(
        (way, model)
        for model in MODELS
        for way in (
            data_parallel("single", 1),
            *(data_parallel(name, gpus) for name in ("ddp", "horovod", "fsdp") for gpus in (2, 4)),
            *(tensor_parallel(gpus, gpus) for gpus in (2, 4)),
            tensor_parallel(4, 2, ranks=2, replicas="fsdp"),
            tensor_parallel(4, 2, ranks=2, replicas="copies"),
            *(schedule(name, gpus, gpus) for name in RULES for gpus in (2, 4)),
            *(
                pipedream(name, gpus, stages)
                for name in ("pipedream", "pipedream-2bw", "pipedream-flush")
                for gpus, stages in ((2, 2), (4, 4), (4, 2))
            ),
        )
    ),
    *(
        (schedule(name, 4, 2, stages=2, replicas=held), model)
        for name in RULES
        for held, model in zip(("copies", "fsdp"), MODELS, strict=True)
    ),
]


@pytest.fixture(scope="module")
def profiles() -> dict[str, Profile]:
    """Of both models, with operators that all take the same time: cuts depend on no clock."""
    made = {}
    for name in MODELS:
        path = f"{small_training.__name__}:{name}"
        effort = Effort(warmup=0, repetitions=1)
        profile = profile_model(path, 16, SIZE, "fp32", "cpu", effort=effort)
        alike = [
            dataclasses.replace(each, forward_s=1e-4, backward_s=2e-4) for each in profile.operators
        ]
        made[name] = dataclasses.replace(profile, operators=tuple(alike))
    return made


def run(
    server: ForkServer, way: Way, model: str, profile: Profile, steps: int
) -> tuple[list[Correctness], list[Trained]]:
    """What the ranks prove of the model in single precision, and train in double precision."""
    row = Catalog().framework(way.framework)
    plan = None
    if row.planning:
        cuts = even_plan(profile, (way.replicas,) * way.stages, workers=way.gpus)
        plan = PlanDecision(cuts, "user")
    requests = [
        RunRequest(
            Case(way.framework, model, way.gpus, "train", batch_size=SIZE, options=way.options),
            row.worker,
            f"{small_training.__name__}:{types}{model}",
            steps=1,
            warmup=0,
            plan=plan,
        )
        for types in ("", "Wide")
    ]
    ranks = Ranks(server, ["cpu"] * way.gpus, threads=1, timeout_s=HANG_S)
    rendezvous = horovod_rendezvous if way.framework == "horovod" else None
    answers: list[tuple[Correctness, Trained]] = ranks.launch(
        PROGRAM, *requests, steps, rendezvous=rendezvous
    )
    evidence, trained = zip(*answers, strict=True)
    return list(evidence), list(trained)


class Reference:
    """Plain training in one process, float64. The weights after each update are kept; each stage
    of each minibatch meets those that the rule gives it, and the newest weights take the mean of
    the gradients."""

    def __init__(self, way: Way, training: Training, stage_of: Mapping[str, int]) -> None:
        self.way, self.training, self.stage_of = way, training, stage_of
        torch.manual_seed(0)
        self.model = training.model()
        own = training.optimizer(self.model)
        weights = self.model.parameters()
        self.optimiser = own or torch.optim.SGD(weights, 0.01, momentum=0.9, weight_decay=5e-4)
        self.weights = [self.newest()]
        # A replica has buffers of its own.
        self.replicas = [copy.deepcopy(self.model) for _ in range(way.replicas)]
        self.losses: dict[tuple[int, int], float] = {}

    def newest(self) -> dict[str, torch.Tensor]:
        """A copy of the weights."""
        return {name: each.detach().clone() for name, each in self.model.named_parameters()}

    def update(self, number: int) -> None:
        """One update by all its minibatches."""
        way = self.way
        if way.framework == "ddp":  # which sends rank 0's buffers before each step
            for other in self.replicas[1:]:
                for mine, theirs in zip(other.buffers(), self.replicas[0].buffers(), strict=True):
                    mine.copy_(theirs)
        self.optimiser.zero_grad()
        losses = defaultdict(list)
        for minibatch in range(number * way.minibatches, (number + 1) * way.minibatches):
            turn, replica = divmod(minibatch, way.replicas)
            data = self.training.minibatch(replica, turn, SIZE * way.share)
            losses[replica].append(self.differentiate(self.replicas[replica], data, number))
        self.optimiser.step()
        self.weights.append(self.newest())
        for replica, values in losses.items():
            self.losses[replica, number] = sum(values) / len(values)

    def differentiate(self, model: nn.Module, data: tuple[object, object], update: int) -> float:
        """Adds a minibatch's part of the mean gradients; returns its loss."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                version = self.way.versions(self.stage_of[name], update)
                parameter.copy_(self.weights[version][name])
        model.zero_grad()
        loss = self.training.loss_of(model, data)
        loss.backward()  # type: ignore[no-untyped-call] # torch's gap
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            assert theirs.grad is not None
            part = theirs.grad / self.way.minibatches
            mine.grad = part if mine.grad is None else mine.grad + part
        return float(loss.detach())


@pytest.mark.parametrize(("way", "model"), CASES, ids=str)
def test_ranks_train_what_one_process_trains(
    server: ForkServer, profiles: Mapping[str, Profile], way: Way, model: str
) -> None:
    if way.framework == "tp" and model == "Normalised":
        with pytest.raises(UsageError, match="'stem' is a convolution: use a transformer"):
            run(server, way, model, profiles[model], 1)
        return
    # Weights as old as they get, and one update more.
    updates = way.stages + 2 if way.versions is not newest else 3
    steps = updates * way.replicas if way.framework == "pipedream" else updates
    evidence, ranks = run(server, way, model, profiles[model], steps)

    proof = agree(Case(way.framework, model, way.gpus, "train"), evidence)
    assert "gradients in float32" in proof.checked

    stage_of = {name: stage for rank in ranks for name, stage in rank.stages.items()}
    assert set(stage_of.values()) == set(range(way.stages))
    training: Training = getattr(small_training, f"Wide{model}")()
    reference = Reference(way, training, stage_of)
    for number in range(updates):
        reference.update(number)
    for rank in ranks:
        for name, held in rank.parameters.items():
            expected = reference.weights[-1][name].numpy()
            np.testing.assert_allclose(held, expected, rtol=0, atol=TOLERANCE, err_msg=name)
        buffers = dict(reference.replicas[rank.replica].named_buffers())
        for name, held in rank.buffers.items():
            expected = buffers[name].numpy()
            np.testing.assert_allclose(held, expected, rtol=0, atol=TOLERANCE, err_msg=name)
        for step, loss in rank.losses.items():
            update = step // way.replicas if way.framework == "pipedream" else step
            assert abs(loss - reference.losses[rank.replica, update]) < TOLERANCE
    for replica in range(way.replicas):
        mine = [rank for rank in ranks if rank.replica == replica]
        assert {name for rank in mine for name in rank.parameters} == set(reference.weights[0])
        assert {name for rank in mine for name in rank.buffers} == {
            name for name, _ in reference.model.named_buffers()
        }
        assert any(rank.losses for rank in mine)


def test_every_framework_of_the_catalog_is_among_them() -> None:
    assert {way.framework for way, _ in CASES} == {row.name for row in FRAMEWORKS}
