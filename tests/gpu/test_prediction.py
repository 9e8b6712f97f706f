"""Predictions on a real GPU: what a rank's step alone says of the one that is timed after it."""

from typing import Any

import pytest

from tests.gpu.sessions import Session, run_session

CASES = """
import pytest

@pytest.mark.parametrize("framework", ["single", "ddp", "fsdp"])
def test_train(framework, model, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(1), phase="train")
"""

MOST_ERROR = 0.25
"""Of one GPU without other work: nothing is exchanged, so the error is what the GPU's speed has
changed since the step alone, and what the framework itself adds."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Three frameworks on one GPU."""
    words = (
        "--dnn-gpu-counts 1 --dnn-models resnet50 --dnn-image-size 224 --dnn-batch-size 64"
        " --dnn-precision bf16 --dnn-launches 1 --dnn-window 1s --dnn-predict"
    )
    done = run_session(tmp_path_factory.mktemp("gpu"), CASES, words)
    print(done.text)
    assert "3 passed" in done.text, done.text
    return done


def record(session: Session, framework: str) -> dict[str, Any]:
    """That of the case of a framework."""
    return next(r for r in session.records.values() if r["case"]["framework"] == framework)


@pytest.mark.parametrize("framework", ["single", "ddp", "fsdp"])
def test_the_step_takes_about_what_its_profile_says(session: Session, framework: str) -> None:
    entry = record(session, framework)["prediction"]
    assert abs(entry["error"]) <= MOST_ERROR, entry
    assert entry["overlaps"]
    assert entry["exposed_s"] == 0


def test_the_memory_is_an_upper_bound_of_what_is_allocated(session: Session) -> None:
    single = record(session, "single")
    allocated = single["metrics"]["allocated_peak_bytes"]["value"]
    predicted = single["prediction"]["memory_bytes"]
    assert 0.3 * predicted <= allocated <= 1.2 * predicted, (allocated, predicted)
