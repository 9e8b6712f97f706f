"""Prints the table of outcomes after a run of the whole matrix."""

from typing import Any

import pytest

from tests.faults import outcomes


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Only where the whole was asked for."""
    if config.option.markexpr == "faults":
        for line in [*outcomes.lines(), *outcomes.lines_of_two_nodes()]:
            terminalreporter.write_line(line)
