"""The folder of --dnn-traces: checked before anything is measured; and the names of its files. The
ranks write them (rank/breakdown/profiled_steps.py)."""

import hashlib
import re
from pathlib import Path

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import MeasuredCase
from pytest_dnnbench.outputs import make_folder
from pytest_dnnbench.session import state

_MOST_NAME = 120
"""Letters of a file's name that are the case's."""


class Traces:
    """Makes the folder, and refuses one that cannot be written to."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Checks the folder, before pytest-xdist starts its workers."""
        folder = state.settings(self._config).traces
        if folder is None or self._config.option.collectonly or state.is_xdist_worker(self._config):
            return
        try:
            make_folder("--dnn-traces", Path(folder))
        except UsageError as error:
            raise state.refused(error, self._config) from None


def trace_path(folder: str, case: MeasuredCase) -> str:
    """The absolute path of a case's traces, to which launch and rank are added. Cases that differ
    in anything have different paths."""
    digest = hashlib.sha256(repr(case).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", f"{case.label}")[:_MOST_NAME].strip("._")
    return str(Path(folder).absolute() / f"{name}-{digest}")
