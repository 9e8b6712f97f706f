"""The steps that predictions are made from: what a framework exchanges without operators is what it
exchanges in the step that is timed."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.data_parallel import DataParallelWorker
from pytest_dnnbench.rank.frameworks.single import SingleWorker
from pytest_dnnbench.rank.trial_steps import bare_worker, gradient_pace, worker_class
from pytest_dnnbench.rank.workloads.workload import Batch
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"

Exchanges = Counter[tuple[str, str]]
"""Collectives by name and shapes, with their number."""


def request_of(framework: str, model: str, passes: int = 1, **options: Scalar) -> RunRequest:
    row, path = Catalog().framework(framework), Catalog().model(model)
    form = StepForm(accumulate=passes)
    case = Case(framework, model, 2, "train", batch_size=4, options=options, form=form)
    return RunRequest(case, row.worker, path, 2, 1)


def exchanges(place: Place, request: RunRequest) -> tuple[Exchanges, Exchanges]:
    """What this rank exchanges in a step of the framework, and in one without operators."""
    kind: type[DataParallelWorker] = worker_class(request)
    with group.membership(place):
        real = kind(place, request)
        real.build()
        batches = [next(real._new_batches())] * real.passes
        whole = counted(real, batches)
        bare = bare_worker(kind, place, request)
        bare.build()
        return whole, counted(bare, [(torch.ones(1, 1), None)] * bare.passes)


def counted(worker: DataParallelWorker, batches: Sequence[Batch]) -> Exchanges:
    """Of the second step: the first settles buckets."""
    worker.train_step(batches)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as watch:
        worker.train_step(batches)
    return Counter(
        (event.name, str(event.input_shapes))
        for event in watch.events() or ()
        if event.name.startswith("c10d::")
    )


@pytest.mark.parametrize(
    ("framework", "model", "passes", "options"),
    [
        ("fsdp", "gpt-nano", 1, {}),
        ("fsdp", TINY, 2, {"reduce": "last", "reshard": "yes"}),
        ("fsdp", "gpt-nano", 1, {"reshard": "no", "param_dtype": "bf16"}),
        ("ddp", TINY, 2, {"bucket_mb": 0.001}),
    ],
)
def test_a_step_without_operators_exchanges_what_the_real_one_does(
    server: ForkServer, framework: str, model: str, passes: int, options: dict[str, Scalar]
) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    asked = request_of(framework, model, passes, **options)
    for whole, bare in ranks.launch("tests.rank.test_trial_steps:exchanges", asked):
        assert whole == bare
        assert sum(whole.values()) > 1


def test_the_pace_of_gradients_is_that_of_the_ranks_own_backward_passes() -> None:
    place = Place(0, 1, "cpu", 1, "", 60.0)
    pace = gradient_pace(place, request_of("horovod", TINY))
    names = {name for name, parameter in built(place).module.named_parameters()}
    assert {name for name, _ in pace} == names
    assert len(pace) == len(names)
    assert all(seconds >= 0 for _, seconds in pace)
    assert sum(seconds for _, seconds in pace) > 0


def built(place: Place) -> SingleWorker:
    worker = SingleWorker(place, request_of("single", TINY))
    worker.build()
    return worker
