"""The hooks by which other packages and conftest files add frameworks and models, without touching
this package."""

from collections.abc import Mapping, Sequence

import pytest

from pytest_dnnbench.catalog import FrameworkSpec


@pytest.hookspec
def pytest_dnnbench_frameworks() -> Sequence[FrameworkSpec]:  # type: ignore[empty-body] # a hook's specification
    """More frameworks that cases can name; one of the same name replaces ours."""


@pytest.hookspec
def pytest_dnnbench_models() -> Mapping[str, str]:  # type: ignore[empty-body] # a hook's specification
    """More models that cases can name, as name -> "package.module:factory"."""
