"""Horovod's training step: right under every option, and each planted fault caught. The library
itself, in ranks."""

from pathlib import Path

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE, RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import PredictedStep, RankReport, RunRequest
from pytest_dnnbench.rank.trial_steps import worker_class
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"
TRAINED = ["loss in float32", "gradients in float32", "gradients", "buffers", "parameters"]
VALIDATED = ["logits in float32", "logits"]
HOROVOD = "pytest_dnnbench.rank.frameworks.horovod:HorovodWorker"


def request(
    gpus: int,
    phase: str = "train",
    *,
    worker: str = HOROVOD,
    options: dict[str, Scalar] | None = None,
) -> RunRequest:
    return RunRequest(
        Case("horovod", TINY, gpus, phase, batch_size=4, options=options or {}), worker, TINY, 3, 1
    )


def ranks(server: ForkServer, gpus: int) -> Ranks:
    return Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S)


def prove(server: ForkServer, asked: RunRequest) -> CorrectnessEntry:
    case = asked.case
    return agree(case, ranks(server, case.gpus).launch(PROVE, asked, rendezvous=horovod_rendezvous))


def measure(server: ForkServer, asked: RunRequest) -> list[RankReport]:
    return ranks(server, asked.case.gpus).launch(MEASURE, asked, rendezvous=horovod_rendezvous)


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("phase", ["train", "validate"])
def test_a_right_step_passes(server: ForkServer, gpus: int, phase: str) -> None:
    evidence = prove(server, request(gpus, phase))
    assert evidence.ranks_agree == "bit for bit"
    assert evidence.checked == (TRAINED if phase == "train" else VALIDATED)


@pytest.mark.parametrize(
    "options",
    [
        {"backward_passes_per_step": 3},
        {"fusion_threshold_mb": 0, "cycle_time_ms": 0.1},
        {"fusion_threshold_mb": 0.0005, "cycle_time_ms": 5},
    ],
    ids=str,
)
def test_tuning_does_not_change_the_mathematics(
    server: ForkServer, options: dict[str, Scalar]
) -> None:
    evidence = prove(server, request(2, options=options))
    assert all(evidence.tolerance[kind] < 1e-9 for kind in ("gradients", "parameters", "buffers"))


def test_fp16_compression_rounds_gradients_and_nothing_else(server: ForkServer) -> None:
    evidence = prove(server, request(2, options={"compression": "fp16"}))
    deviation = evidence.largest_deviation
    assert isinstance(deviation, dict)
    assert 1e-5 < deviation["gradients"] < 5e-3, (
        "the exchange was rounded, and not more than fp16 rounds"
    )
    assert deviation["parameters"] < 1e-12
    assert deviation["buffers"] < 1e-12


@pytest.mark.parametrize(
    ("worker", "shown"),
    [
        ("NoBroadcast", "holds other values than rank 0"),
        ("NoAllReduce", "gradients of step 0"),
        ("SumForMean", "gradients of step 0"),
        ("DecayingBroadcast", "parameters of step 0"),
    ],
)
def test_a_planted_fault_is_caught(server: ForkServer, worker: str, shown: str) -> None:
    with pytest.raises(WrongResult, match="the step is wrong, so it was not timed") as caught:
        prove(server, request(2, worker=f"tests.horovod.workers:{worker}"))
    assert shown in str(caught.value)


@pytest.mark.parametrize("worker", ["NoBroadcast", "NoAllReduce"])
def test_the_looser_bound_of_fp16_still_catches_faults(server: ForkServer, worker: str) -> None:
    with pytest.raises(WrongResult):
        prove(
            server,
            request(2, worker=f"tests.horovod.workers:{worker}", options={"compression": "fp16"}),
        )


def test_settings_in_force_are_recorded(server: ForkServer) -> None:
    options: dict[str, Scalar] = {
        "fusion_threshold_mb": 2.0,
        "cycle_time_ms": 0.5,
        "backward_passes_per_step": 2,
    }
    reports = measure(server, request(2, options=options))
    for report in reports:
        assert report.details["horovod_fusion_threshold"] == str(2 << 20)
        assert report.details["horovod_cycle_time"] == "0.5"
        assert report.details["backward_passes_per_step"] == 2
        assert (report.details["op"], report.details["compression"]) == ("average", "none")
        assert report.step_samples == (8, 8, 8), (
            "a step is an update: two minibatches of four images"
        )
        assert report.samples_per_update == 16


def test_without_its_rendezvous_ranks_do_not_train_alone(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="Horovod sees itself as rank 0 of 1"):
        ranks(server, 2).launch(PROVE, request(2))


def test_a_step_of_several_passes_is_predicted_from_what_horovod_adds(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    launcher = RankLauncher(
        ranks(server, 2),
        rendezvous=horovod_rendezvous,
        prediction=Catalog().framework("horovod").prediction,
    )

    def predicted(passes: int) -> PredictedStep:
        step = launcher.predict(request(2, options={"backward_passes_per_step": passes}))
        assert step is not None
        assert step.refused == ""
        assert min(step.compute_s, step.update_s) > 0
        assert step.exposed_s >= 0
        return step

    # Its thread averages what has come, so the gradients come at the model's own pace.
    assert worker_class(request(2)).exchanges_on_arrival
    # Three passes of a rank alone take longer, but in a moment when one had to wait for its core.
    assert any(predicted(3).compute_s > predicted(1).compute_s for _ in range(6))
