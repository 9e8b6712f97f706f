"""`--dnn-report DIR`: the report of a session, written at its end from what the session holds in
memory.

The session's own results come first: they are saved before this runs, and no error here changes the
exit status.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.preflight import Preflight

if TYPE_CHECKING:
    from pytest_dnnbench.report.runs import Run


class SessionReport:
    """Writes the report of a session that asked for it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        folder = state.settings(config).report
        self._folder = None if folder is None or state.is_xdist_worker(config) else Path(folder)
        self._failures: list[tuple[str, str]] = []
        if self._folder:
            from pytest_dnnbench.report.write import check_writable

            try:
                check_writable(self._folder, "--dnn-report")
            except UsageError as error:
                raise state.refused(error, self._config) from None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps what failed."""
        if report.failed:
            self._failures.append((report.nodeid, _message(report)))

    def summary(self) -> list[tuple[str, str]]:
        """Writes the report; says where it is, or why there is none."""
        if self._folder is None or self._config.option.collectonly:
            return []
        try:
            page = self._write(self._folder)
        except Exception as error:  # whatever is wrong with a picture, the tests' outcome stands
            is_ours = isinstance(error, DnnbenchError)
            cause = str(error) if is_ours else f"{type(error).__name__}: {error}"
            return [(f"dnnbench: no report was written: {cause}", "red")]
        return [(f"dnnbench report: {page}", "")]

    def _write(self, folder: Path) -> Path:
        from pytest_dnnbench.report.study import Study
        from pytest_dnnbench.report.write import write_report

        return write_report(Study([self._run()]), folder)

    def _run(self) -> Run:
        """This session, from what it holds in memory."""
        from pytest_dnnbench.report.runs import run_in_memory

        return run_in_memory(
            benchmark_file.records(self._config),
            saved=datetime.now(UTC).isoformat(timespec="seconds"),
            failures=self._failures,
            preflight=state.part(self._config, Preflight).entry,
        )


def _message(report: pytest.TestReport) -> str:
    """The last lines of a failure, which tell what was wrong."""
    return report.longreprtext.strip()[-1000:]
