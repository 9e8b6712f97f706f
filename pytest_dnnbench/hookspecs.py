"""The hooks by which other packages and conftest files add frameworks, models, metrics and engines,
without touching this package. examples/ has a package that uses those of cases."""

from collections.abc import Mapping, Sequence

import pytest

from pytest_dnnbench.catalog import FrameworkSpec
from pytest_dnnbench.controller.engines import EngineFactory
from pytest_dnnbench.metrics import Metric


@pytest.hookspec
def pytest_dnnbench_frameworks() -> Sequence[FrameworkSpec]:  # type: ignore[empty-body] # a hook's specification
    """More frameworks that cases can name, each with its own options; a framework of the same name
    replaces ours."""


@pytest.hookspec
def pytest_dnnbench_models() -> Mapping[str, str]:  # type: ignore[empty-body] # a hook's specification
    """More models that cases can name, as name -> "package.module:factory"; a model of the same
    name replaces ours."""


@pytest.hookspec
def pytest_dnnbench_engines() -> Mapping[str, EngineFactory]:  # type: ignore[empty-body] # a hook's specification
    """More engines for --dnn-engine, as name -> function of the nodes' names and the words of
    --dnn-engine-command that returns the engine (controller.engines.Engine); an engine of the same
    name replaces ours."""


@pytest.hookspec
def pytest_dnnbench_metrics() -> Sequence[Metric]:  # type: ignore[empty-body] # a hook's specification
    """More metrics that records can hold. A worker reports a metric by its name
    (Worker.metrics)."""
