"""Checks that need a GPU: skipped where there is none. `make gpu-test` runs them.

On a GPU a session takes 8 s to start, the proof of a case 4 s and each launch 2 s or more, so the
checks of several ranks share sessions with few cases. They run one after the other: 20 ranks
that made contexts at once have been refused the memory for it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dnnbench.controller.leases import VARIABLE as LEASES
from pytest_dnnbench.controller.machine import detect
from tests.conftest import USERS_GPUS, USERS_LEASES
from tests.gpu.sessions import Session, run_session

HERE = Path(__file__).parent
PIPELINES = """
import pytest

# A bandwidth that is given need not be measured.
@pytest.mark.parametrize(
    ("framework", "shape", "model"),
    [
        ("pipedream", "2-1-1", "resnet18"),
        ("pipedream-2bw", "1-1", "resnet18"),
        ("pipedream-flush", "1-1", "mlp"),
    ],
)
def test_pipeline(framework, shape, model, process_group, dnnbench):
    ranks = process_group(sum(map(int, shape.split("-"))))
    if shape == "2-1-1":  # all streams of a rank in one queue
        ranks.environment["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    options = {"stages": shape, "bandwidth": 1e9}
    dnnbench.measure(framework, model, ranks, phase="train", options=options)
"""
DEEP = """
def test_deep(process_group, dnnbench):
    ranks, options = process_group(4), {"stages": 4}
    dnnbench.measure("pipedream", "efficientnet_b0", ranks, phase="train", options=options)
"""
OTHERS = """
import pytest
from pytest_dnnbench import StepForm

IMAGES = StepForm(memory_format="channels_last")
OPTIONS = {
    "sync_batchnorm": ("ddp", "resnet18", {"sync_batchnorm": True}, IMAGES),
    "powersgd": ("ddp", "resnet18", {"hook": "powersgd", "powersgd_rank": 2}, IMAGES),
    "reduce_last": ("fsdp", "mlp", {"reduce": "last"}, StepForm(accumulate=2)),
}

@pytest.mark.parametrize("option", OPTIONS)
def test_option(option, process_group, dnnbench):
    framework, model, options, form = OPTIONS[option]
    dnnbench.measure(framework, model, process_group(2), phase="train", options=options, form=form)

@pytest.mark.parametrize("framework", ["fsdp", "tp"])
def test_sharded(framework, process_group, dnnbench):
    dnnbench.measure(framework, "mlp", process_group(2), phase="train")

@pytest.mark.parametrize("framework", ["gpipe", "1f1b"])
def test_schedule(framework, process_group, dnnbench):
    options = {"bandwidth": 1e9}
    dnnbench.measure(framework, "mlp", process_group(2), phase="train", options=options)

@pytest.mark.parametrize("framework", ["1f1b", "zbv"])
def test_parts(framework, process_group, dnnbench):
    options = {"bandwidth": 1e9, "stages": 2, "replicas": "fsdp"}
    ranks, form = process_group(4), StepForm()
    dnnbench.measure(framework, "mlp", ranks, phase="train", options=options, form=form)

def test_validation(process_group, dnnbench):
    options = {"bandwidth": 1e9, "stages": "1-1"}
    dnnbench.measure("pipedream", "mlp", process_group(2), phase="validate", options=options)
"""
WORDS = (
    "--dnn-ranks-per-gpu 4 --dnn-gpu-counts 2,4 --dnn-image-size 64 --dnn-batch-size 16"
    " --dnn-warmup 4 --dnn-steps 12"
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
    """The GPUs that the other tests do not see, and the leases on them."""
    with pytest.MonkeyPatch.context() as patch:
        _give_back_the_gpus(patch)
        yield


def _give_back_the_gpus(patch: pytest.MonkeyPatch) -> None:
    for name, value in (("CUDA_VISIBLE_DEVICES", USERS_GPUS), (LEASES, USERS_LEASES)):
        if value is None:
            patch.delenv(name, raising=False)
        else:
            patch.setenv(name, value)


@pytest.fixture(scope="package")
def pipelines(tmp_path_factory: pytest.TempPathFactory, _the_users_gpus: None) -> Session:
    """Our pipelines, whose ranks share one GPU; two launches of each case."""
    words = f"{WORDS} --dnn-timeout 45 --dnn-launches 2"
    return run_session(tmp_path_factory.mktemp("pipelines"), PIPELINES, words)


@pytest.fixture(scope="package")
def deep(tmp_path_factory: pytest.TempPathFactory, _the_users_gpus: None) -> Session:
    """A deep model of short kernels on four ranks: where four share a GPU, its proof takes most of
    a minute."""
    words = f"{WORDS} --dnn-timeout 120 --dnn-launches 1"
    return run_session(tmp_path_factory.mktemp("deep"), DEEP, words)


@pytest.fixture(scope="package")
def others(tmp_path_factory: pytest.TempPathFactory, _the_users_gpus: None) -> Session:
    """Sharded models, torch's schedules and a validation, whose ranks share one GPU."""
    words = f"{WORDS} --dnn-timeout 45 --dnn-launches 1"
    return run_session(tmp_path_factory.mktemp("others"), OTHERS, words)
