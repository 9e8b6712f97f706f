"""When the summary is shown."""

from typing import Any

import pluggy
import pytest
from _pytest import hookspec

from pytest_dnnbench.session.summary import Summary


class Reporter:
    """What a summary writes to."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write_line(self, text: str, **_: bool) -> None:
        """One line of the terminal."""
        self.lines.append(text)


class Shown(Summary):
    """A summary whose table is one line."""

    def _show_table(self, terminalreporter: Any) -> None:
        terminalreporter.write_line("the table")


class PytestBenchmark:
    """Shows its own table, and fails where its comparison does."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """As pytest-benchmark's."""
        terminalreporter.write_line("pytest-benchmark's")
        if self._error:
            raise self._error


@pytest.mark.parametrize("error", [None, RuntimeError("Performance has regressed.")])
def test_the_summary_is_shown_where_pytest_benchmark_raises_in_its_own(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Of --benchmark-compare-fail, table, verdicts and the name of the report were lost."""
    monkeypatch.setattr("pytest_dnnbench.session.summary.ORDER", ())
    manager, reporter = pluggy.PluginManager("pytest"), Reporter()
    manager.add_hookspecs(hookspec)
    pytest_hooks = pytest.PytestPluginManager()
    manager.parse_hookimpl_opts = pytest_hooks.parse_hookimpl_opts  # type: ignore[method-assign]
    manager.register(Shown(pytestconfig))
    manager.register(PytestBenchmark(error))
    show = manager.hook.pytest_terminal_summary
    if error is None:
        show(terminalreporter=reporter, exitstatus=0, config=pytestconfig)
    else:
        with pytest.raises(RuntimeError, match="has regressed"):
            show(terminalreporter=reporter, exitstatus=0, config=pytestconfig)
    assert reporter.lines == ["pytest-benchmark's", "the table"]
