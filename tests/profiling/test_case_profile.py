"""Plans and predictions are made from the profile of the case's own step, taken on all its
ranks."""

from pathlib import Path
from unittest import mock

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, PlanDecision, RunRequest
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.profile_file import read_profile
from pytest_dnnbench.rank.pipeline import planning
from pytest_dnnbench.rank.profiling import profiler
from pytest_dnnbench.rank.profiling.case_profile import case_profile
from pytest_dnnbench.rank.profiling.profiler import Effort
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

MODEL = "tests.pipeline.models:residual"
FORM = StepForm(memory_format="channels_last", fused=True)


def decide_undisturbed(place: Place, request: RunRequest) -> PlanDecision | None:
    """As the framework's planning, on a machine where other work keeps no profile from being kept,
    with one repetition."""
    profiler.LEAST_CORE_SHARE = 0.0

    def quick(place: Place, request: RunRequest, effort: Effort | None = None) -> Profile:
        return case_profile(place, request, effort or Effort(warmup=0, repetitions=1))

    decide = (
        planning.decide if request.case.framework == "pipedream" else planning.decide_synchronous
    )
    with mock.patch.object(planning, "case_profile", quick):
        return decide(place, request)


@pytest.mark.parametrize("framework", ["pipedream", "1f1b"])
def test_a_plan_is_made_from_the_profile_of_the_form_that_is_timed(
    server: ForkServer, tmp_path: Path, framework: str
) -> None:
    case = Case(framework, MODEL, 2, "train", batch_size=4, form=FORM)
    request = RunRequest(case, Catalog().framework(framework).worker, MODEL, steps=1, warmup=0)
    variables = {"XDG_CACHE_HOME": str(tmp_path)}
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S, environment=variables)
    decision, other = ranks.launch(f"{__name__}:decide_undisturbed", request)
    assert isinstance(decision, PlanDecision)
    assert other is None
    (kept,) = (tmp_path / "pytest-dnnbench" / "profiles").iterdir()
    profile = read_profile(kept)
    profile.require(memory_format="channels_last", update="fused", beside=1)
    planned_s = sum(stage.compute_s for stage in decision.plan.stages)
    assert planned_s == pytest.approx(profile.parts_s), "rank 0's profile is the one that is kept"
