"""A failed save loses nothing, nor does what pytest-benchmark cannot show.

pytest-benchmark saves while the session finishes. What it cannot write, because the disk is full or
the storage read-only, goes to a file elsewhere, whose path is shown; the session then fails.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.harmless import say
from pytest_dnnbench.session import benchmark_file

FALLBACK = "dnnbench-unsaved-"


class Saving:
    """Registered once per session, in the process that saves."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.failure = ""
        self._hidden = ""
        self._session: pytest.Session | None = None
        self._finished = False

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Watches saving, and what pytest-benchmark shows."""
        self._session = session
        benchmark_file.watch_saving(self._config, self._rescue)
        benchmark_file.watch_display(self._config, self._not_shown)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Fails a session whose data are not where they were asked for."""
        result = yield
        self._finished = True
        if self.failure:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        return result

    def pytest_unconfigure(self) -> None:
        """Keeps what was measured by a session that pytest could not finish, as when its working
        directory is gone: pytest goes back there first, and raises."""
        if self._session is None or self._finished:
            return
        if unsaved := benchmark_file.packed(self._config):
            say(f"dnnbench: the session did not come to its end. {keep(unsaved)}", sys.stderr)

    def summary(self) -> list[tuple[str, str]]:
        """Where the data are instead, and what was not shown."""
        return [(text, "red") for text in (self._hidden, self.failure) if text]

    def _not_shown(self, error: Exception) -> None:
        """Fails a session that does not show or draw what was asked for."""
        assert self._session is not None
        self._session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        self._hidden = (
            f"dnnbench: pytest-benchmark could not show its table or draw its histogram:"
            f" {type(error).__name__}: {error}"
        )

    def _rescue(self, error: Exception, where: str, benchmarks: list[dict[str, Any]]) -> None:
        cause = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self.failure = (
            f"dnnbench: the results could not be saved to {where}: {cause}. {keep(benchmarks)}"
        )


def keep(benchmarks: list[dict[str, Any]]) -> str:
    """Writes the benchmarks to the first folder that takes them, and tells where."""
    text, errors = json.dumps({"benchmarks": benchmarks}, default=str), []
    for folder in dict.fromkeys((tempfile.gettempdir(), os.curdir, str(Path.home()), "/dev/shm")):  # noqa: S108 - a last resort, created by mkstemp
        try:
            descriptor, path = tempfile.mkstemp(prefix=FALLBACK, suffix=".json", dir=folder)
        except OSError as error:
            errors.append(f"{folder}: {error.strerror}")
            continue
        try:
            with open(descriptor, "w") as file:
                file.write(text)
        except OSError as error:
            os.unlink(path)
            errors.append(f"{folder}: {error.strerror}")
            continue
        return f"What was measured is in {path}"
    return f"Nor could they be kept elsewhere ({'; '.join(errors)})"
