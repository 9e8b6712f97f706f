"""The controller's own ends: a stop by SIGTERM is as clean as Ctrl-C, and a failed save loses
nothing.

pytest-benchmark saves while the session finishes. What it cannot write, because the disk is full or
the storage read-only, goes to a file elsewhere, whose path is told; the session then fails. Its
`handle_saving` is undocumented: it is replaced here and nowhere else.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

FALLBACK = "dnnbench-unsaved-"


class KeepSafe:
    """Registered once per session, in the process that saves."""

    def __init__(self) -> None:
        self.failure = ""
        self._before: Any = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """From here on SIGTERM, unless somebody else has use for it, stops as Ctrl-C does; saving
        is watched."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._before = signal.signal(signal.SIGTERM, _interrupt)
        benchmarks = getattr(session.config, "_benchmarksession", None)
        if benchmarks is not None:
            save = benchmarks.handle_saving
            benchmarks.handle_saving = lambda: self._save(save, benchmarks)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """A session whose data are not where they were asked for has failed."""
        result = yield
        if self.failure:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Last, so that it is seen."""
        if self.failure:
            terminalreporter.write_line(self.failure, red=True)

    def pytest_unconfigure(self) -> None:
        """Leaves SIGTERM as it was."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _save(self, save: Callable[[], None], benchmarks: Any) -> None:
        try:
            save()
        except OSError as error:
            asked = " and ".join(filter(None, (_name(benchmarks.json), _storage(benchmarks))))
            kept = keep(
                [
                    one.as_dict(include_data=True)
                    for one in benchmarks.benchmarks
                    if not one.has_error
                ]
            )
            self.failure = f"dnnbench: the results could not be saved to {asked}: {error.strerror or error}. {kept}"


def keep(benchmarks: list[dict[str, Any]]) -> str:
    """Writes the benchmarks to the first folder that takes them, and tells where."""
    text, errors = json.dumps({"benchmarks": benchmarks}, default=str), []
    for folder in dict.fromkeys((tempfile.gettempdir(), os.getcwd(), str(Path.home()), "/dev/shm")):  # noqa: S108 - a last resort, created by mkstemp
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


def _name(file: Any) -> str:
    return str(getattr(file, "name", "")) if file else ""


def _storage(benchmarks: Any) -> str:
    return str(benchmarks.storage.location) if benchmarks.save or benchmarks.autosave else ""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")
