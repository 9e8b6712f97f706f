"""Checks that need a GPU: skipped where there is none. `make gpu-test` runs them."""

from pathlib import Path

import pytest

from pytest_dnnbench.controller.machine import detect

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the checks of this folder on machines without a GPU."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if ours and not detect("auto").gpus:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
