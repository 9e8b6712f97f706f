"""Predictions on real ranks: made of what was profiled and measured there, or refused with the
reason. The formulae have their own tests (tests/planner)."""

from pathlib import Path

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.messages import Place, PredictedStep, RunRequest
from pytest_dnnbench.planner.fabric import FREE
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.rank import prediction
from pytest_dnnbench.rank.prediction import predict
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.profiling.profiler import Effort
from pytest_dnnbench.rank.workloads.image_models import build_model
from pytest_dnnbench.step_form import StepForm

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
        timeout_s=120,
        environment={"XDG_CACHE_HOME": str(folder)},
    )
    first, *others = ranks.launch(code, request, returns=PredictedStep | None)
    assert all(each is None or each.refused for each in others)
    assert isinstance(first, PredictedStep)
    return first


def weight_bytes() -> int:
    return sum(parameter.nbytes for parameter in build_model(TINY, 28).parameters())


def test_ddp_is_its_compute_then_its_buckets_and_the_update_on_cores_that_do_all(
    server: ForkServer, tmp_path: Path
) -> None:
    step = predicted(server, tmp_path, request_of("ddp"))
    assert step.refused == ""
    assert not step.overlaps
    assert min(step.compute_s, step.exposed_s, step.update_s) > 0
    fixed_s, bytes_s = step.collectives["all_reduce"]
    assert step.exposed_s == pytest.approx(fixed_s + weight_bytes() / bytes_s), "one bucket"
    assert step.profile_parts_over_whole is not None
    assert step.memory_bytes > 4 * weight_bytes(), "weights, gradients, momentum, buckets"


def test_fsdp_gathers_and_scatters_every_unit(server: ForkServer, tmp_path: Path) -> None:
    step = predicted(server, tmp_path, request_of("fsdp"))
    assert step.refused == ""
    assert set(step.collectives) == {"all_gather", "reduce_scatter"}
    (gather_fixed, gather), (scatter_fixed, scatter) = step.collectives.values()
    # A model of the user's has no block for the whole, so all of its children are gathered twice.
    least = weight_bytes() * (2 / gather + 1 / scatter) + gather_fixed + scatter_fixed
    assert step.exposed_s >= least * (1 - 1e-9)


def test_one_rank_alone_sends_nothing(server: ForkServer, tmp_path: Path) -> None:
    step = predicted(server, tmp_path, request_of("ddp", gpus=1))
    assert (step.exposed_s, step.collectives) == (0.0, {})


@pytest.mark.parametrize(
    ("framework", "form", "options", "reason"),
    [
        ("ddp", StepForm(compile="default"), {}, "a profile knows nothing of compile"),
        ("single", StepForm(checkpointing=True), {}, "a profile knows nothing of checkpointing"),
        ("fsdp", StepForm(accumulate=2), {}, "an exchange per minibatch is not in the formula"),
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


def test_a_minibatch_without_an_exchange_adds_its_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    effort = Effort(warmup=0, repetitions=1)
    profile: Profile = cached_profile(TINY, 28, 4, "fp32", "cpu", effort=effort)

    def compute_s(accumulate: int) -> float:
        case = request_of("ddp", form=StepForm(accumulate=accumulate)).case
        measured = prediction._Measured(case, profile, {"all_reduce": FREE}, True)
        return prediction._RULES["ddp"].time(measured).compute_s

    assert compute_s(3) == 3 * compute_s(1) > 0
