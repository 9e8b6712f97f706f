"""A case is planned and proven once, before its first launch, and never timed if its step is
wrong. Ranks are behind a Launcher."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import CaseRun, Launcher, prepare_run
from pytest_dnnbench.controller.machine import Gpu, Machine, detect
from pytest_dnnbench.errors import RankHung, WrongResult
from pytest_dnnbench.messages import Correctness, PredictedStep, RunRequest, TimedRequest
from pytest_dnnbench.results.baselines.comparability import differences, facts_of
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.schema import Conditions, PredictionEntry, Record
from tests.fake_launches import YARDSTICK_S, FakeLauncher

EXACT = Correctness({"gradients": 0.0}, {"gradients": 1e-9})
WRONG = Correctness({"gradients": 0.5}, {"gradients": 1e-9}, ("gradients of step 0 deviate",))


class Recorder:
    """A launcher that records its calls, and the plan in the request of each."""

    def __init__(self, proof: Correctness = EXACT) -> None:
        self.calls: list[tuple[str, Mapping[str, Any] | None]] = []
        self.rechecked: list[bool] = []
        self.proof = proof
        self._fake = FakeLauncher(confirm_from=99)

    def plan(self, request: TimedRequest) -> Any:
        self.calls.append(("plan", request.plan))
        return {"stages": 2}

    def predict(self, request: TimedRequest) -> PredictedStep | None:
        self.calls.append(("predict", request.plan))
        return PredictedStep(compute_s=0.005, update_s=0.003)

    def prove(self, request: TimedRequest) -> Sequence[Correctness]:
        self.calls.append(("prove", request.plan))
        return [EXACT, self.proof]

    def measure(self, request: TimedRequest) -> Launch:
        assert isinstance(request, RunRequest)
        self.rechecked.append(request.recheck)
        self.calls.append(("measure", request.plan))
        return self._fake.measure(request)

    def yardstick(self) -> float | None:
        return self._fake.yardstick()


def case_run(
    launcher: Launcher, catalog: Catalog | None = None, model: str = "resnet18"
) -> CaseRun:
    case = Case("ddp", model, 2, "train", batch_size=4)
    catalog = catalog or Catalog()
    return prepare_run(case, catalog, launcher, detect("cpu"), steps=2, warmup=1, data=None)


def test_a_case_is_planned_and_proven_once_before_its_first_launch() -> None:
    launcher = Recorder()
    run = case_run(launcher)
    run.launch()
    run.launch()
    plan = {"stages": 2}
    assert launcher.calls == [
        ("plan", None),
        ("prove", plan),
        ("measure", plan),
        ("measure", plan),
    ]
    assert run.correctness is not None
    assert run.correctness.checked == ["gradients"]
    assert launcher.rechecked == [True, False], "the first launch is checked once more"
    assert len(run.launches) == 2


def test_a_step_of_training_is_predicted_once_where_that_is_asked_for() -> None:
    launcher = Recorder()
    run = case_run(launcher)
    run.predicted = True
    run.launch()
    run.launch()
    assert [what for what, _ in launcher.calls] == ["plan", "prove", "predict", *["measure"] * 2]
    entry = make_record(run.measurement()).prediction
    assert entry is not None
    assert (entry.step_time_s, entry.compute_s, entry.exposed_s) == (0.008, 0.005, 0)
    assert entry.measured_step_time_s == pytest.approx(0.01, rel=0.01)
    assert entry.error == pytest.approx(0.25, rel=0.01)

    validating = case_run(launcher)
    validating.predicted = True
    assert isinstance(validating.request, RunRequest)
    case = replace(validating.request.case, phase="validate")
    validating.request = replace(validating.request, case=case)
    validating.launch()
    assert [what for what, _ in launcher.calls][-3:] == ["plan", "prove", "measure"]
    assert make_record(validating.measurement()).prediction is None


def test_a_rank_that_fails_in_the_prediction_costs_the_prediction_only() -> None:
    class Hanging(Recorder):
        def predict(self, request: TimedRequest) -> PredictedStep | None:
            raise RankHung("rank 1 hung in the prediction\nits stack", rank=1)

    run = case_run(Hanging())
    run.predicted = True
    run.launch()
    entry = make_record(run.measurement()).prediction
    assert entry == PredictionEntry(asked=True, refused="rank 1 hung in the prediction")


def test_ranks_that_share_a_gpu_are_never_compared_with_others() -> None:
    def measured(ranks_per_gpu: int) -> Record:
        run = case_run(Recorder())
        gpus = (Gpu("A", "GPU-a"), Gpu("A", "GPU-b"))
        run.machine = Machine("cuda", gpus, "550", 16, "", "", ranks_per_gpu=ranks_per_gpu)
        run.launch()
        return make_record(run.measurement())

    apart, shared = measured(1), measured(2)
    assert (apart.run.oversubscribed, shared.run.oversubscribed) == (False, True)
    unlike = {each.fact: each.now for each in differences(facts_of(apart), facts_of(shared))}
    assert unlike == {"oversubscribed": True, "ranks_per_gpu": 2}


def test_what_is_set_on_the_gpus_must_match() -> None:
    def facts(*limits_w: float) -> dict[str, object]:
        gpus = tuple(
            Gpu("H100", f"GPU-{number}", settings=(("power_limit_w", limit_w),))
            for number, limit_w in enumerate(limits_w)
        )
        run = case_run(Recorder())
        run.launch()
        run.machine = Machine("cuda", gpus, "550", 8, "", "")
        conditions = Conditions(gpu_uuids=tuple(gpu.uuid for gpu in gpus))
        run.launches = [replace(launch, conditions=conditions) for launch in run.launches]
        return dict(run.measurement().environment.must_match)

    assert facts(700.0, 700.0)["gpu_power_limit_w"] == 700.0
    assert facts(700.0, 500.0)["gpu_power_limit_w"] == "700.0, 500.0"
    assert "gpu_power_limit_w" not in facts()


def test_how_the_gpus_of_a_launch_are_connected_must_match() -> None:
    def fact(*used: str) -> object:
        gpus = (
            Gpu("H100", "GPU-a", links=(("GPU-b", "NV18"), ("GPU-c", "SYS"))),
            Gpu("H100", "GPU-b", links=(("GPU-a", "NV18"), ("GPU-c", "SYS"))),
            Gpu("H100", "GPU-c", links=(("GPU-a", "SYS"), ("GPU-b", "SYS"))),
        )
        run = case_run(Recorder())
        run.launch()
        run.machine = Machine("cuda", gpus, "550", 8, "", "")
        conditions = Conditions(gpu_uuids=used)
        run.launches = [replace(launch, conditions=conditions) for launch in run.launches]
        return run.measurement().environment.must_match.get("gpu_links")

    assert fact("GPU-a", "GPU-b") == "NV18"
    assert fact("GPU-a", "GPU-b", "GPU-c") == "0-1 NV18, 0-2 SYS, 1-2 SYS"
    assert fact("GPU-a") is None


def test_a_wrong_step_is_never_timed() -> None:
    launcher = Recorder(WRONG)
    with pytest.raises(WrongResult, match="so it was not timed: rank 1: gradients of step 0"):
        case_run(launcher).launch()
    assert "measure" not in dict(launcher.calls)


def test_launches_that_confirm_do_not_count_among_those_of_the_case() -> None:
    run = case_run(Recorder())
    run.launch()
    confirming = run.again(2)
    assert len(confirming) == 2
    assert len(run.launches) == 1
    throughput = run.measurement(confirming).values()["throughput"]
    assert throughput.per_launch == [launch.throughput for launch in confirming]


def test_the_machines_own_speed_is_measured_only_where_it_is_asked_for() -> None:
    run = case_run(Recorder())
    assert run.launch().conditions.yardstick_s is None
    run.with_yardstick = True
    assert run.launch().conditions.yardstick_s == YARDSTICK_S


class OnGpus(Recorder):
    """A launcher whose ranks are on GPUs: they report these seconds of their yardsticks, where they
    are asked to measure."""

    def __init__(self, *yardsticks: float | None) -> None:
        self.yardsticks = yardsticks
        super().__init__()

    def measure(self, request: TimedRequest) -> Launch:
        launch = super().measure(request)
        first, *_ = launch.reports
        asked = self.yardsticks if request.yardstick else [None] * len(self.yardsticks)
        reports = [
            replace(first, rank=rank, yardstick_s=seconds) for rank, seconds in enumerate(asked)
        ]
        return replace(launch, reports=tuple(reports))


def gpu_yardstick(*yardsticks: float | None, ranks_per_gpu: int = 1) -> float | None:
    """What is recorded where the ranks of a launch report these."""
    run = case_run(OnGpus(*yardsticks))
    gpus = (Gpu("A", "GPU-a"), Gpu("A", "GPU-b"))
    run.machine = Machine("cuda", gpus, "550", 16, "", "", ranks_per_gpu=ranks_per_gpu)
    run.with_yardstick = True
    return run.launch().conditions.yardstick_s


def test_of_gpus_the_slowest_ones_yardstick_counts() -> None:
    assert gpu_yardstick(0.0015, 0.0018) == 0.0018


def test_without_memory_for_one_gpus_yardstick_there_is_none() -> None:
    assert gpu_yardstick(0.0015, None) is None


def test_ranks_that_share_a_gpu_are_not_asked_for_its_yardstick() -> None:
    assert gpu_yardstick(0.0015, 0.0018, ranks_per_gpu=2) is None


def test_a_yardstick_that_took_no_time_is_an_error() -> None:
    with pytest.raises(WrongResult, match="yardstick"):
        gpu_yardstick(0.0, 0.0)


def test_ranks_build_the_model_that_a_hook_put_in_the_place_of_the_suites() -> None:
    replaced = Catalog().with_rows([], {"resnet18": "tests.tiny_models:tiny"})
    run = case_run(Recorder(), replaced)
    assert isinstance(run.request, RunRequest)
    assert run.request.model == "tests.tiny_models:tiny"
    assert run.request.case.model == "resnet18", "the record keeps the name that the user gave"
    added = Catalog().with_rows([], {"mine": "tests.tiny_models:tiny"})
    again = case_run(Recorder(), added, "mine").request
    assert isinstance(again, RunRequest)
    assert again.model == "tests.tiny_models:tiny"
