"""What the hooks of other packages and conftest files return, checked: frameworks, models,
engines, metrics.

Not here: the hooks' signatures (hookspecs.py), and what becomes of the rows (catalog/,
metrics.py).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pluggy
import pytest

from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.controller.engines import EngineFactory
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import Metric

_Row = TypeVar("_Row")

_NOT_THE_HOOKS = (str(Path(pluggy.__file__).parent), str(Path(__file__).parents[1]), "<string>")
"""The files of what calls hooks and makes rows."""


def catalog(config: pytest.Config) -> Catalog:
    """The frameworks and models that can be named: ours and those that the hooks add. Raises
    UsageError for a hook that raises, that returns something else, or whose row has the name of
    another hook's."""
    frameworks = _rows(
        config, "pytest_dnnbench_frameworks", FrameworkSpec, "pytest_dnnbench.catalog"
    )
    named: dict[str, FrameworkSpec] = {}
    for row in frameworks:
        _add(named, row.name, row, f"frameworks named {row.name!r}", row.worker)
    models: dict[str, str] = {}
    form = 'a dict of name: "module:factory"'
    for name, path in _entries(config, "pytest_dnnbench_models", form):
        if not isinstance(path, str) or ":" not in path:
            raise _unlike("pytest_dnnbench_models", {name: path}, form)
        _add(models, name, path, f"models named {name!r}", path)
    return Catalog().with_rows(named.values(), models)


def engines(config: pytest.Config) -> dict[str, EngineFactory]:
    """The engines that the hooks add. Raises as `catalog` does."""
    factories: dict[str, EngineFactory] = {}
    form = "a dict of name: function of nodes and command"
    for name, factory in _entries(config, "pytest_dnnbench_engines", form):
        if not callable(factory):
            raise _unlike("pytest_dnnbench_engines", {name: factory}, form)
        _add(factories, name, factory, f"engines named {name!r}", repr(factory))
    return factories


def metrics(config: pytest.Config) -> list[Metric]:
    """The metrics that the hooks add. Raises as `catalog` does."""
    return _rows(config, "pytest_dnnbench_metrics", Metric, "pytest_dnnbench.metrics")


def _add(rows: dict[str, Any], name: str, row: object, what: str, shown: str) -> None:
    """A row under its name, which no other row of the hooks may have: which of them is measured
    would depend on the order in which pytest loads plugins."""
    if rows.setdefault(name, row) != row:
        other = getattr(rows[name], "worker", rows[name])
        raise UsageError(f"hooks add two {what}: {other} and {shown}: name one otherwise")


def _rows(config: pytest.Config, hook: str, kind: type[_Row], module: str) -> list[_Row]:
    """The rows of all implementations of a hook. `module` is where users import the kind from."""
    rows: list[_Row] = []
    form = f"a list of {module}.{kind.__name__}"
    for returned in _called(config, hook):
        if not isinstance(returned, Iterable) or isinstance(returned, str):
            raise _unlike(hook, returned, form)
        with _naming(hook):  # a generator runs only now
            entries = list(returned)
        for row in entries:
            if not isinstance(row, kind):
                raise _unlike(hook, row, form)
            rows.append(row)
    return rows


def _entries(config: pytest.Config, hook: str, form: str) -> Iterator[tuple[str, Any]]:
    """The entries of the dicts that all implementations of a hook return."""
    for returned in _called(config, hook):
        if not isinstance(returned, Mapping):
            raise _unlike(hook, returned, form)
        for name, value in returned.items():
            if not isinstance(name, str):
                raise _unlike(hook, {name: value}, form)
            yield name, value


def _called(config: pytest.Config, hook: str) -> list[Any]:
    """What the implementations of a hook return."""
    with _naming(hook):
        returned: list[Any] = getattr(config.hook, hook)()
    return returned


@contextmanager
def _naming(hook: str) -> Iterator[None]:
    """Makes whatever a hook raises a UsageError with its place: a session that cannot name its
    frameworks has measured nothing, and its exit status must not be that of a failed test."""
    try:
        yield
    except Exception as error:
        place = _place(error)
        if isinstance(error, UsageError):
            raise UsageError(f"the hook {hook}{place}: {error}") from None
        raised = f"{type(error).__name__}: {error}"
        raise UsageError(f"the hook {hook} raised {raised}{place}") from error


def _place(error: Exception) -> str:
    """Where the hook's own code is in a traceback: after what calls hooks, and before libraries
    that it calls, this package among them."""
    frames = traceback.extract_tb(error.__traceback__)
    of_the_hook = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_HOOKS)]
    return f" ({of_the_hook[0].filename}, line {of_the_hook[0].lineno})" if of_the_hook else ""


def _unlike(hook: str, returned: object, form: str) -> UsageError:
    return UsageError(f"the hook {hook} returned {returned!r}: let it return {form}")
