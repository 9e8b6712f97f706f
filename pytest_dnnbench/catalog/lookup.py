"""From a name in a case to its row: the frameworks and models of one session, the built-in ones and
those that other packages add.

Not here: the built-in rows (frameworks.py, models.py)."""

import difflib
import importlib.machinery
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pytest_dnnbench.catalog.framework_spec import FrameworkSpec
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.catalog.models import OWN_MODELS, TORCHVISION_MODELS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import GROUPS

TORCH_GROUP = FrameworkSpec(
    "torch",
    "pytest_dnnbench.rank.timed_function:TorchGroup",
    "torch.distributed's process group, for timed functions: no framework trains here",
)
"""Stands for torch in `Catalog.group`."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The frameworks and models of one session: the built-in rows and those that other packages
    add."""

    frameworks: Mapping[str, FrameworkSpec] = field(
        default_factory=lambda: {row.name: row for row in FRAMEWORKS}
    )
    models: Mapping[str, str] = field(default_factory=lambda: {**TORCHVISION_MODELS, **OWN_MODELS})
    front: tuple[str, ...] = ()
    """Folders that the ranks have on `sys.path` before this process's."""

    def with_rows(
        self, frameworks: Iterable[FrameworkSpec], models: Mapping[str, str]
    ) -> "Catalog":
        """This catalog and more rows; a row of the same name replaces ours."""
        rows = {**self.frameworks, **{row.name: row for row in frameworks}}
        return replace(self, frameworks=rows, models={**self.models, **models})

    def replaces_ours(self, name: str) -> bool:
        """Whether another package's row stands for a framework of ours."""
        return any(row.name == name and row != self.frameworks[name] for row in FRAMEWORKS)

    def behind(self, folder: str | None) -> "Catalog":
        """This catalog for ranks that have a folder first on `sys.path`; None: they have not."""
        return replace(self, front=(folder,) if folder else ())

    def framework(self, name: str) -> FrameworkSpec:
        """The row of a framework. Raises UsageError with the nearest names."""
        try:
            return self.frameworks[name]
        except KeyError:
            raise UsageError(
                f"unknown framework {name!r}: {_nearest(name, self.frameworks)}"
            ) from None

    def group(self, name: str) -> FrameworkSpec:
        """The library whose group of ranks a timed function runs in: "torch", or a framework with a
        group of its own. Raises UsageError."""
        if name not in GROUPS:
            raise UsageError(
                f"framework {name!r} has no group for a function to run in: choose from"
                f" {', '.join(GROUPS)}"
            )
        return TORCH_GROUP if name == TORCH_GROUP.name else self.framework(name)

    def model(self, name: str) -> str:
        """The "module:factory" behind a model's name, which may be one itself. Raises
        UsageError."""
        if name in self.models:
            return self.models[name]
        module, colon, factory = name.partition(":")
        if not colon:
            raise UsageError(f"unknown model {name!r}: {self._model_meant(name)}")
        if not all(part.isidentifier() for part in (*module.split("."), *factory.split("."))):
            raise UsageError(f"model {name!r} is not of the form package.module:factory")
        first = module.split(".")[0]
        ahead = importlib.machinery.PathFinder.find_spec(first, [*self.front])
        if ahead is None and importlib.util.find_spec(first) is None:
            raise UsageError(
                f"model {name!r}: no module {first!r} can be imported: install its package, or add"
                ' its folder to sys.path, as by pythonpath = ["."] in pytest\'s configuration'
            )
        return name

    def _model_meant(self, name: str) -> str:
        """What to write instead. There are too many names to list all of them in a line."""
        package, dot, factory = name.rpartition(".")
        if dot and all(part.isidentifier() for part in name.split(".")):
            return f"a factory stands behind a colon: write {package}:{factory}"
        if close := _close(name, self.models):
            return f"did you mean {' or '.join(close)}? Or write package.module:factory"
        return (
            f"give one of the suite's {len(self.models)}, such as a classifier of torchvision"
            " (resnet18) or a model of tokens (gpt-tiny), or package.module:factory"
        )


def _close(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


def _nearest(name: str, names: Iterable[str]) -> str:
    close = _close(name, names)
    return (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"choose from {', '.join(sorted(names))}"
    )
