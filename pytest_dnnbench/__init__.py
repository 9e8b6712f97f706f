"""Benchmarks of distributed deep-network training as pytest cases: the public names.

Authors of cases and of plugins import from here; docs/extending.md shows how. A name is loaded at
its first use, so that `import pytest_dnnbench` imports neither torch nor anything else that is
heavy. `Step` and `Worker` import torch: only code that runs on ranks may use them. Nothing inside
this package imports from here: modules name each other.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_dnnbench.case import Case
    from pytest_dnnbench.catalog import FrameworkOption, FrameworkSpec
    from pytest_dnnbench.controller.pipeline_stages import PipelineStages
    from pytest_dnnbench.controller.ranks import Ranks
    from pytest_dnnbench.errors import (
        BuildError,
        DataError,
        DnnbenchError,
        LaunchError,
        NodeLost,
        PlanError,
        ProfileError,
        RankCrashed,
        RankFailure,
        RankHung,
        RankOutOfMemory,
        RankRaised,
        RankUnreadable,
        UsageError,
        WorkloadRefused,
        WrongResult,
    )
    from pytest_dnnbench.messages import Correctness, Place, RunRequest
    from pytest_dnnbench.metrics import Metric
    from pytest_dnnbench.rank.worker import Step, Worker
    from pytest_dnnbench.rank.workloads.workload import DataShare, Workload
    from pytest_dnnbench.session.bench import DnnBench
    from pytest_dnnbench.step_form import StepForm

__all__ = [
    "BuildError",
    "Case",
    "Correctness",
    "DataError",
    "DataShare",
    "DnnBench",
    "DnnbenchError",
    "FrameworkOption",
    "FrameworkSpec",
    "LaunchError",
    "Metric",
    "NodeLost",
    "PipelineStages",
    "Place",
    "PlanError",
    "ProfileError",
    "RankCrashed",
    "RankFailure",
    "RankHung",
    "RankOutOfMemory",
    "RankRaised",
    "RankUnreadable",
    "Ranks",
    "RunRequest",
    "Step",
    "StepForm",
    "UsageError",
    "Worker",
    "Workload",
    "WorkloadRefused",
    "WrongResult",
    "__version__",
]

__version__ = "0.1.0"

_MODULES = {
    "Case": "case",
    "Correctness": "messages",
    "DataShare": "rank.workloads.workload",
    "DnnBench": "session.bench",
    "FrameworkOption": "catalog",
    "FrameworkSpec": "catalog",
    "Metric": "metrics",
    "PipelineStages": "controller.pipeline_stages",
    "Place": "messages",
    "Ranks": "controller.ranks",
    "RunRequest": "messages",
    "Step": "rank.worker",
    "StepForm": "step_form",
    "Worker": "rank.worker",
    "Workload": "rank.workloads.workload",
}
"""The module of each public name; of every other one it is `errors`."""

# Type checkers read the imports above: with a __getattr__ they would accept any misspelt name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Loads a public name at its first use (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
        globals()[name] = getattr(module, name)
        return globals()[name]

    def __dir__() -> list[str]:
        """The public names, also those that are not loaded yet."""
        return sorted({*globals(), *__all__})
