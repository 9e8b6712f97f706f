"""Checks that need a GPU: skipped where there is none. `make gpu-test` runs them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_dnnbench.controller.machine import detect
from tests.conftest import USERS_GPUS

HERE = Path(__file__).parent


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
