"""Predictions on real ranks: made of what was profiled and measured there, or refused with the
reason. The formulae have their own tests (tests/planner)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.messages import Place, PredictedStep, RunRequest
from pytest_dnnbench.planner.fabric import FREE, CollectiveCost
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.rank import group, prediction
from pytest_dnnbench.rank.collective_costs import measured_costs
from pytest_dnnbench.rank.prediction import _Measured, predict
from pytest_dnnbench.rank.workloads.image_models import build_model
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"
PREDICT = "pytest_dnnbench.rank.prediction:predict"


def request_of(framework: str, model: str = TINY, gpus: int = 2, **more: object) -> RunRequest:
    case = Case(framework, model, gpus, "train", batch_size=4, **more)  # type: ignore[arg-type]
    return RunRequest(case, Catalog().framework(framework).worker, model, steps=1, warmup=0)


def predicted(
    server: ForkServer, folder: Path, request: RunRequest, code: str = PREDICT
) -> PredictedStep:
    """Rank 0's prediction, on ranks with a cache of their own."""
    ranks = Ranks(
        server,
        ["cpu"] * request.case.gpus,
        threads=1,
        timeout_s=HANG_S,
        environment={"XDG_CACHE_HOME": str(folder)},
    )
    first, *others = ranks.launch(code, request, returns=PredictedStep | None)
    assert all(each is None or each.refused for each in others)
    assert isinstance(first, PredictedStep)
    return first


def weight_bytes() -> int:
    return sum(parameter.nbytes for parameter in build_model(TINY, 28).parameters())


@pytest.mark.parametrize("framework", ["ddp", "fsdp"])
def test_on_cores_that_do_all_compute_and_the_frameworks_own_step_add_up(
    server: ForkServer, tmp_path: Path, framework: str
) -> None:
    step = predicted(server, tmp_path, request_of(framework))
    assert step.refused == ""
    assert not step.overlaps
    assert step.collectives == {}, "they are not timed one by one"
    assert min(step.compute_s, step.update_s) > 0
    assert step.exposed_s >= 0
    assert step.profile_parts_over_whole is not None
    least = {"ddp": 4.0, "fsdp": 2.0}[framework] * weight_bytes()
    assert step.memory_bytes > least, "weights, gradients, momentum (of two ranks), buffers"


def test_a_rank_of_single_exchanges_nothing(server: ForkServer, tmp_path: Path) -> None:
    step = predicted(server, tmp_path, request_of("single", gpus=1))
    assert (step.exposed_s, step.collectives) == (0.0, {})
    assert min(step.compute_s, step.update_s) > 0


def test_on_gpus_the_collectives_are_timed_one_by_one(server: ForkServer) -> None:
    """On CPU ranks here: what is timed is called as the frameworks call it."""
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    costs, others = ranks.launch("tests.rank.test_prediction:costs")
    assert set(costs) == {"all_reduce", "all_gather", "reduce_scatter"}
    assert all(fixed_s >= 0 and 0 < bytes_s < math.inf for fixed_s, bytes_s in costs.values())
    assert set(others) == set(costs)


def costs(place: Place) -> dict[str, tuple[float, float]]:
    """What each collective costs."""
    with group.membership(place):
        measured = measured_costs(place, ["all_reduce", "all_gather", "reduce_scatter"])
    return {name: (cost.fixed_s, cost.bytes_s) for name, cost in measured.items()}


@pytest.mark.parametrize(
    ("framework", "form", "options", "reason"),
    [
        ("ddp", StepForm(compile="default"), {}, "a profile knows nothing of compile"),
        ("tp", StepForm(checkpointing=True), {}, "a profile knows nothing of checkpointing"),
        ("single", StepForm(checkpointing=True), {}, "a profile knows nothing of checkpointing"),
        ("ddp", StepForm(), {"hook": "powersgd"}, "nothing is known of the hook powersgd"),
        (
            "ddp",
            StepForm(),
            {"sync_batchnorm": True},
            "what SyncBatchNorm exchanges is not in the formula",
        ),
    ],
)
def test_what_no_formula_follows_is_refused_before_anything_is_measured(
    framework: str, form: StepForm, options: dict[str, Scalar], reason: str
) -> None:
    request = request_of(framework, form=form, options=options)
    step = predict(None, request)  # type: ignore[arg-type] # no rank is needed for a refusal
    assert step == PredictedStep(refused=reason)


def test_a_model_that_cannot_be_profiled_is_refused_with_its_reason(
    server: ForkServer, tmp_path: Path
) -> None:
    step = predicted(server, tmp_path, request_of("ddp", model="tests.pipeline.models:Branching"))
    assert "control flow depends on the value" in step.refused


def test_a_profile_that_fails_on_one_rank_keeps_no_other_waiting(
    server: ForkServer, tmp_path: Path
) -> None:
    """As of a GPU whose times mean nothing, beside others that are sound."""
    code = "tests.rank.test_prediction:predict_without_the_last_profile"
    step = predicted(server, tmp_path, request_of("ddp"), code)
    assert step == PredictedStep(refused="the times of rank 1 say nothing")


def predict_without_the_last_profile(place: Place, request: RunRequest) -> PredictedStep | None:
    """As prediction.predict, where the last rank makes no profile."""
    profile = prediction._profile

    def failing(place: Place, request: RunRequest) -> Profile:
        if place.rank == place.world_size - 1:
            raise ProfileError(f"the times of rank {place.rank} say nothing")
        return profile(place, request)

    prediction._profile = failing
    return predict(place, request)


PROFILE = Profile(
    tuple(Operator(name, "Linear", 1.0, 2.0, 0, 8) for name in "ab"),
    (("a", "b"),),
    {"update_s": 2.0, "blocks": {"a": "first", "b": "second"}},
)
"""Six seconds of passes, and two of an update."""


def measured(framework: str, costs: Mapping[str, CollectiveCost], **more: Any) -> _Measured:
    return _Measured(request_of(framework, **more).case, PROFILE, costs)


def test_a_minibatch_without_an_exchange_adds_its_compute() -> None:
    def compute_s(accumulate: int) -> float:
        form = StepForm(accumulate=accumulate)
        return prediction._ddp_time(measured("ddp", {"all_reduce": FREE}, form=form)).compute_s

    assert (compute_s(1), compute_s(3)) == (6.0, 18.0)


def test_fsdp_exchanges_as_often_as_its_option_says() -> None:
    """Gathers of the first block, and reductions of the last in the backward pass, hide behind
    nothing: one second each."""
    second = {"all_gather": FREE, "reduce_scatter": CollectiveCost(0.0, 8.0)}

    def exposed_s(passes: int, **options: Scalar) -> float:
        form = StepForm(accumulate=passes)
        return prediction._fsdp_time(measured("fsdp", second, form=form, options=options)).exposed_s

    assert [exposed_s(1), exposed_s(3), exposed_s(3, reduce="last")] == [1.0, 3.0, 1.0]


def test_a_profile_is_scaled_to_a_step_as_it_is_now() -> None:
    """Two passes of 6 s and an update of 2 s took 7 s: half as long as in the profile."""
    scaled = prediction._adding_up(PROFILE, 7.0, 2)
    assert (scaled.parts_s, scaled.metadata["update_s"]) == (3.0, 1.0)
    step = replace(measured("ddp", {}, form=StepForm(accumulate=2)), profile=scaled, bare_s=4.0)
    time = prediction._time(prediction._RULES["ddp"], step)
    assert (time.compute_s, time.exposed_s, time.update_s) == (6.0, 3.0, 1.0)


def test_a_worker_without_a_model_to_empty_is_refused() -> None:
    asked = request_of("ddp")
    other = replace(
        asked,
        case=replace(asked.case, framework="theirs"),
        worker="pytest_dnnbench.rank.frameworks.pipedream:PipeDreamWorker",
    )
    step = predict(Place(0, 2, "cpu", 1, "", 1.0), other)
    assert step is not None
    assert step.refused.startswith(f"{other.worker} is no DataParallelWorker")


def test_ranks_that_split_layers_compute_their_parts_and_exchange(
    server: ForkServer, tmp_path: Path
) -> None:
    asked = request_of("tp", "gpt-tiny")
    step = predicted(server, tmp_path, replace(asked, model=Catalog().model("gpt-tiny")))
    assert step.refused == ""
    assert step.collectives == {}, "they are timed together"
    assert min(step.compute_s, step.update_s) > 0
    assert step.exposed_s >= 0
    held = 53 / 100 * 4 * 820_000  # test_split_steps.py has the very share
    assert step.memory_bytes > 4 * held, "weights, gradients, two moments of AdamW; activations"


def test_replicas_of_split_layers_are_predicted_on_cpu_ranks_only() -> None:
    gpus = Place(0, 4, "cuda:0", 1, "", 1.0)
    asked = request_of("tp", "gpt-tiny", gpus=4, device="cuda", options={"ranks": 2})
    assert predict(gpus, asked) == PredictedStep(
        refused="how much of its replicas' exchange a GPU's compute hides is in no formula"
    )


def test_horovod_is_predicted_on_cpu_ranks_only() -> None:
    gpus = Place(0, 2, "cuda:0", 1, "", 1.0)
    step = predict(gpus, request_of("horovod"))
    assert step == PredictedStep(
        refused="how much of its exchange a GPU's compute hides is in no formula"
    )
