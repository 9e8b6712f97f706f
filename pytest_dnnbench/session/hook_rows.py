"""What the hooks of other packages and conftest files return, checked: frameworks, models,
engines, metrics.

Not here: the hooks' signatures (hookspecs.py), and what becomes of the rows (catalog/,
metrics.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pytest

from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.controller.engines import EngineFactory
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import Metric

_Row = TypeVar("_Row")


def catalog(config: pytest.Config) -> Catalog:
    """The frameworks and models that can be named: ours and those that the hooks add. Raises
    UsageError for a hook that returns something else."""
    returned_frameworks = config.hook.pytest_dnnbench_frameworks()
    frameworks = _rows(
        "pytest_dnnbench_frameworks", returned_frameworks, FrameworkSpec, "pytest_dnnbench.catalog"
    )
    models: dict[str, str] = {}
    for returned in config.hook.pytest_dnnbench_models():
        if not isinstance(returned, Mapping):
            raise _unlike("pytest_dnnbench_models", returned, 'a dict of name: "module:factory"')
        for name, path in returned.items():
            if not isinstance(name, str) or not isinstance(path, str) or ":" not in path:
                wanted = 'a dict of name: "module:factory"'
                raise _unlike("pytest_dnnbench_models", {name: path}, wanted)
            models[name] = path
    return Catalog().with_rows(frameworks, models)


def engines(config: pytest.Config) -> dict[str, EngineFactory]:
    """The engines that the hooks add. Raises as `catalog` does."""
    factories: dict[str, EngineFactory] = {}
    for returned in config.hook.pytest_dnnbench_engines():
        wanted = "a dict of name: function of nodes and command"
        if not isinstance(returned, Mapping):
            raise _unlike("pytest_dnnbench_engines", returned, wanted)
        for name, factory in returned.items():
            if not isinstance(name, str) or not callable(factory):
                raise _unlike("pytest_dnnbench_engines", {name: factory}, wanted)
            factories[name] = factory
    return factories


def metrics(config: pytest.Config) -> list[Metric]:
    """The metrics that the hooks add. Raises as `catalog` does."""
    returned = config.hook.pytest_dnnbench_metrics()
    return _rows("pytest_dnnbench_metrics", returned, Metric, "pytest_dnnbench.metrics")


def _rows(hook: str, results: Iterable[Any], kind: type[_Row], module: str) -> list[_Row]:
    """The rows of all implementations of a hook. `module` is where users import the kind from."""
    rows: list[_Row] = []
    for returned in results:
        wanted = f"a list of {module}.{kind.__name__}"
        if not isinstance(returned, Iterable) or isinstance(returned, str):
            raise _unlike(hook, returned, wanted)
        for row in returned:
            if not isinstance(row, kind):
                raise _unlike(hook, row, wanted)
            rows.append(row)
    return rows


def _unlike(hook: str, returned: object, wanted: str) -> UsageError:
    return UsageError(f"the hook {hook} returned {returned!r}: let it return {wanted}")
