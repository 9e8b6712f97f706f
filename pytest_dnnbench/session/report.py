"""`--dnn-report DIR`: the report of a session, written at its end from what the session holds in
memory.

The session's own results come first: they are saved before this runs, and no error here changes the
exit status.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.report.runs import Run, run_in_memory
from pytest_dnnbench.session.typed_record import typed


class SessionReport:
    """Hooks of a session that asked for a report. Raises UsageError when the folder could not be
    written to."""

    def __init__(self, directory: str) -> None:
        from pytest_dnnbench.report.write import check_writable

        self.directory = Path(directory)
        check_writable(self.directory)
        self._failures: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps what failed."""
        if report.failed:
            self._failures.append((report.nodeid, _message(report)))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Writes the report and says where; or why not."""
        if config.option.collectonly:
            return
        try:
            page = self._write(config)
        except Exception as error:  # whatever is wrong with a picture, the tests' outcome stands
            cause = (
                str(error)
                if isinstance(error, DnnbenchError)
                else f"{type(error).__name__}: {error}"
            )
            terminalreporter.write_line(f"dnnbench: no report was written: {cause}", red=True)
        else:
            terminalreporter.write_line(f"dnnbench report: {page}")

    def _write(self, config: pytest.Config) -> Path:
        from pytest_dnnbench.report.study import Study
        from pytest_dnnbench.report.write import write_report

        return write_report(Study([self._run(config)]), self.directory)

    def _run(self, config: pytest.Config) -> Run:
        """This session, from what it holds in memory."""
        session: Any = getattr(config, "_benchmarksession", None)
        measured = [] if session is None or session.disabled else session.benchmarks
        records = {
            benchmark.fullname: typed(benchmark.extra_info["dnnbench"])
            for benchmark in measured
            if not benchmark.has_error and "dnnbench" in benchmark.extra_info
        }
        return run_in_memory(
            records,
            source="this session",
            saved=datetime.now(UTC).isoformat(timespec="seconds"),
            failures=self._failures,
        )


def _message(report: pytest.TestReport) -> str:
    """The last lines of a failure, which tell what was wrong."""
    return report.longreprtext.strip()[-1000:]
