"""Checks that need a GPU: skipped where there is none. `make gpu-test` runs them.

A session on a GPU takes seconds to start, and each launch some more, so the checks of several ranks
share a few sessions, which run at the same time.
"""

from pathlib import Path

import pytest

from pytest_dnnbench.controller.machine import detect
from tests.gpu.sessions import Session, run_at_once

HERE = Path(__file__).parent
SHARDED = """
import pytest

@pytest.mark.parametrize(
    ("framework", "model"), [("ddp", "resnet18"), ("fsdp", "resnet18"), ("tp", "gpt-nano")]
)
def test_sharded(framework, model, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(2), phase="train")

def test_sharded_validation(process_group, dnnbench):
    dnnbench.measure("ddp", "resnet18", process_group(2), phase="validate")
"""
TWO_STAGES = """
import pytest

@pytest.mark.parametrize("framework", ["pipedream", "pipedream-2bw", "pipedream-flush"])
def test_two_stages(framework, process_group, dnnbench):
    options = {"stages": 2}
    dnnbench.measure(framework, "resnet18", process_group(2), phase="train", options=options)
"""
SCHEDULES = """
import pytest

@pytest.mark.parametrize("framework", ["gpipe", "1f1b"])
def test_schedule(framework, process_group, dnnbench):
    dnnbench.measure(framework, "resnet18", process_group(2), phase="train")

@pytest.mark.parametrize("framework", ["gpipe", "pipedream"])
def test_validation(framework, process_group, dnnbench):
    options = {"stages": 2} if framework == "pipedream" else {}
    dnnbench.measure(framework, "resnet18", process_group(2), phase="validate", options=options)
"""
FOUR_RANKS = """
import pytest

@pytest.mark.parametrize(
    ("shape", "model"), [("2-1-1", "resnet18"), ("1-1-1-1", "efficientnet_b0")]
)
def test_four_ranks(shape, model, process_group, dnnbench):
    options = {"stages": shape}
    dnnbench.measure("pipedream", model, process_group(4), phase="train", options=options)
"""
ONE_QUEUE = """
def test_one_queue(process_group, dnnbench):
    ranks = process_group(3)
    ranks.environment["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    options = {"stages": "2-1"}
    dnnbench.measure("pipedream", "resnet18", ranks, phase="train", options=options)
"""
WORDS = (
    "--dnn-ranks-per-gpu 4 --dnn-gpu-counts 2,4 --dnn-image-size 64 --dnn-batch-size 16"
    " --dnn-warmup 4 --dnn-steps 12 --dnn-timeout 60"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the checks of this folder on machines without a GPU."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if ours and not detect("auto").gpus:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def shared_gpu(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Cases whose ranks share one GPU: every kind of framework, and two launches of those whose
    launches are compared."""
    once, twice = f"{WORDS} --dnn-launches 1", f"{WORDS} --dnn-launches 2"
    return run_at_once(
        tmp_path_factory.mktemp("shared_gpu"),
        {
            "sharded": (SHARDED, once),
            "two_stages": (TWO_STAGES, twice),
            "schedules": (SCHEDULES, once),
            "four_ranks": (FOUR_RANKS, twice),
            "one_queue": (ONE_QUEUE, once),
        },
    )
