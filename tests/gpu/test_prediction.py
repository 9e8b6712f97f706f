"""Predictions on a real GPU: what a rank's step alone says of the one that is timed after it."""

import pytest

from pytest_dnnbench.step_form import StepForm
from tests.gpu.lanes import Lane, LaneBench, RunLane

MOST_ERROR = 0.25
"""Of one GPU without other work: nothing is exchanged, so the error is what the GPU's speed has
changed since the step alone, and what the framework itself adds."""


@pytest.mark.costs(20)
@pytest.mark.parametrize("framework", ["fsdp", "ddp", "single"])
def test_the_step_takes_about_what_its_profile_says(
    bench: LaneBench, framework: str, run_lane: RunLane
) -> None:
    lane = Lane(
        *(framework, "resnet50" if bench.kind == "cuda" else "mlp", 1),
        form=StepForm("channels_last" if bench.kind == "cuda" else "contiguous"),
        image_size=224,
        batch_size=64,
        precision="bf16",
        steps="1s",
        warmup="auto",
        predicted=True,
    )
    outcome = run_lane(lane)
    entry = outcome.record["prediction"]
    if bench.kind == "cpu":
        # There, frameworks compute with the cores that the step needs, and what else runs too.
        assert entry["compute_s"] > 0
        return
    assert entry["exposed_s"] == 0
    assert abs(entry["error"]) <= MOST_ERROR, entry
    assert entry["overlaps"]
    if framework == "single":
        (allocated,) = outcome.per_launch("allocated_peak_bytes")
        assert 0.3 * entry["memory_bytes"] <= allocated <= 1.2 * entry["memory_bytes"]
