"""A short session on one GPU: what only a real GPU, its driver and NVML can show."""

from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.controller.nvml import gpu_handles, nvml
from pytest_dnnbench.device_peaks import peak_flops
from tests.gpu.sessions import Session, run_session

only_on_a_gpu = pytest.mark.only_on_a_gpu

CASES = """
import pytest

@pytest.mark.parametrize("framework", ["single", "ddp"])
def test_train(framework, model, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(1), phase="train")

def test_copies(process_group, dnnbench):
    dnnbench.time(
        "pytest_dnnbench.rank.collectives:AllReduce", process_group(1),
        arguments={"size": 1 << 26}, check="pytest_dnnbench.rank.collectives:check",
        collective="all_reduce",
    )
"""


ALWAYS = "--dnn-gpu-counts 1 --dnn-launches 1"
WORDS = {
    "cuda": "--dnn-models resnet18 --dnn-image-size 224 --dnn-batch-size 64 --dnn-precision bf16"
    " --dnn-window 2.5s",
    "cpu": "--dnn-models mlp --dnn-batch-size 4 --dnn-warmup 1 --dnn-steps 2",
}


@pytest.fixture(scope="module")
def session(kind: str, folder: Path) -> Session:
    """Two training cases and a timed function on one GPU, a launch each."""
    done = run_session(folder / "session", CASES, kind, f"{ALWAYS} {WORDS[kind]}")
    assert "3 passed" in done.text, done.text
    return done


@pytest.mark.costs(35)
def test_a_session_has_a_record_of_every_case(session: Session) -> None:
    assert len(session.records) == 3
    assert all(len(record["launches"]) == 1 for record in session.records.values())


def windows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What was read of the GPU in the window of each launch."""
    return [
        launch["conditions"]["gpu_window"][launch["conditions"]["gpu_uuids"][0]]
        for launch in record["launches"]
    ]


@only_on_a_gpu
def test_the_gpu_is_read_a_few_times_a_second(session: Session) -> None:
    for record in session.records.values():
        for window in windows(record):
            assert window["samples"] >= 6
            assert window["power_w"] > 0
            assert 0 <= window["utilisation"] <= 1
            assert window["sm_clock_mhz"] > 0
            assert window["temperature_c"] > 0


@only_on_a_gpu
def test_energy_is_power_times_time(session: Session) -> None:
    """Two ways that NVML has to say it."""
    for record in session.records.values():
        for launch, window in zip(record["launches"], windows(record), strict=True):
            by_power = window["power_w"] * max(launch["rank_wall_s"])
            assert window["energy_j"] == pytest.approx(by_power, rel=0.25)
        entry = record["metrics"]["energy_per_sample_j"]
        assert entry["unit"].startswith("J/")
        assert entry["value"] > 0


@only_on_a_gpu
def test_ranks_warm_up_until_steps_are_steady(session: Session) -> None:
    for record in session.records.values():
        assert all(launch["steady"] for launch in record["launches"])


@only_on_a_gpu
def test_each_launch_is_followed_by_the_gpus_yardstick(session: Session) -> None:
    """It does not depend on the case; a round takes a millisecond or a few."""
    figures = []
    for record in session.records.values():
        assert len(record["metrics"]["yardstick_s"]["per_launch"]) == len(record["launches"])
        figures += record["metrics"]["yardstick_s"]["per_launch"]
    assert len(figures) == 3
    assert 1e-4 < min(figures) <= max(figures) < 1.05 * min(figures)


@only_on_a_gpu
def test_mfu_is_a_fraction_where_the_gpus_peak_is_known(session: Session) -> None:
    record = session.records["test_train[resnet18-channels_last-single]"]
    peak = peak_flops(record["environment"]["must_match"]["gpu"], "bf16")
    if peak is None:
        assert "mfu" not in record["metrics"]
    else:
        assert 0 < record["metrics"]["mfu"]["value"] < 1


@only_on_a_gpu
def test_no_launch_was_disturbed_by_our_own_ranks(session: Session) -> None:
    for record in session.records.values():
        for launch in record["launches"]:
            assert "process" not in (launch["conditions"].get("disturbed") or "")


@only_on_a_gpu
def test_the_driver_has_the_counters_that_throttling_is_taken_from() -> None:
    with nvml() as library:
        for handle in gpu_handles(library):
            values = library.nvmlDeviceGetFieldValues(handle, [74, 269, 270, 271])
            assert [value.nvmlReturn for value in values] == [0, 0, 0, 0]
