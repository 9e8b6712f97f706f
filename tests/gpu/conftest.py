"""Checks that need a GPU: skipped where there is none. `make gpu-test` runs them.

A session on a GPU takes seconds to start, so the checks of frameworks on several ranks share one.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dnnbench.controller.machine import detect
from tests.conftest import USERS_GPUS
from tests.gpu.sessions import Session, run_session

HERE = Path(__file__).parent
CASES = """
import pytest
from pytest_dnnbench import StepForm

STAGES = {"stages": 2}

@pytest.mark.parametrize("phase", ["train", "validate"])
@pytest.mark.parametrize(
    ("framework", "model"), [("ddp", "resnet18"), ("fsdp", "resnet18"), ("tp", "gpt-nano")]
)
def test_sharded(framework, model, phase, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(2), phase=phase)

OPTIONS = {
    "sync_batchnorm": ("ddp", {"sync_batchnorm": True}, StepForm(memory_format="channels_last")),
    "powersgd": (
        "ddp", {"hook": "powersgd", "powersgd_rank": 2}, StepForm(memory_format="channels_last")
    ),
    "reduce_last": ("fsdp", {"reduce": "last"}, StepForm(accumulate=2)),
}

@pytest.mark.parametrize("option", OPTIONS)
def test_option(option, process_group, dnnbench):
    framework, options, form = OPTIONS[option]
    dnnbench.measure(
        framework, "resnet18", process_group(2), phase="train", options=options, form=form
    )

@pytest.mark.parametrize(
    "framework", ["pipedream", "pipedream-2bw", "pipedream-flush", "gpipe", "1f1b"]
)
def test_two_stages(framework, process_group, dnnbench):
    options = STAGES if framework.startswith("pipedream") else {}
    dnnbench.measure(framework, "resnet18", process_group(2), phase="train", options=options)

@pytest.mark.parametrize("framework", ["pipedream", "gpipe"])
def test_validation(framework, process_group, dnnbench):
    options = STAGES if framework.startswith("pipedream") else {}
    dnnbench.measure(framework, "resnet18", process_group(2), phase="validate", options=options)

@pytest.mark.parametrize(
    ("shape", "model"), [("2-1-1", "resnet18"), ("1-1-1-1", "efficientnet_b0")]
)
def test_four_ranks(shape, model, process_group, dnnbench):
    options = {"stages": shape}
    dnnbench.measure("pipedream", model, process_group(4), phase="train", options=options)

@pytest.mark.parametrize("shape", ["1-1", "2-1"])
def test_one_queue(shape, process_group, dnnbench):
    ranks = process_group(1 + int(shape[0]))
    ranks.environment["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    options = {"stages": shape}
    dnnbench.measure("pipedream", "resnet18", ranks, phase="train", options=options)
"""
WORDS = (
    "--dnn-ranks-per-gpu 4 --dnn-gpu-counts 2,4 --dnn-image-size 64 --dnn-batch-size 16"
    " --dnn-launches 2 --dnn-warmup 4 --dnn-steps 12 --dnn-timeout 45"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the checks of this folder on machines without a GPU."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    with pytest.MonkeyPatch.context() as patch:
        _give_back_the_gpus(patch)
        if not ours or detect("auto").gpus:
            return
    for item in ours:
        item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="package", autouse=True)
def _the_users_gpus() -> Iterator[None]:
    """The GPUs that the other tests do not see."""
    with pytest.MonkeyPatch.context() as patch:
        _give_back_the_gpus(patch)
        yield


def _give_back_the_gpus(patch: pytest.MonkeyPatch) -> None:
    if USERS_GPUS is None:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        patch.setenv("CUDA_VISIBLE_DEVICES", USERS_GPUS)


@pytest.fixture(scope="package")
def shared_gpu(tmp_path_factory: pytest.TempPathFactory, _the_users_gpus: None) -> Session:
    """A session whose ranks share one GPU: every kind of framework, two launches of each case."""
    return run_session(tmp_path_factory.mktemp("shared_gpu"), CASES, WORDS)
