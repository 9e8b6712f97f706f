"""The one terminal summary of a session, in order: the table and what disturbed its launches, the
options without effect, the machine beside its fingerprint, the preflight, the verdicts, the other
side, the launch plan, what was not timed, the journal, the report, GitHub's annotations, a failed
save."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from typing import Any, Protocol

import pytest

from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.github import GitHub
from pytest_dnnbench.session.journal import Journaling
from pytest_dnnbench.session.launch_planning import LaunchPlanning
from pytest_dnnbench.session.machine_fingerprint import MachineFingerprint
from pytest_dnnbench.session.option_effects import OptionEffects
from pytest_dnnbench.session.preflight import Preflight
from pytest_dnnbench.session.report import SessionReport
from pytest_dnnbench.session.resources import resources_in_use
from pytest_dnnbench.session.saving import Saving
from pytest_dnnbench.session.side_by_side import SideBySide
from pytest_dnnbench.session.verdicts import Verdicts
from pytest_dnnbench.session.xdist import Xdist


class Summarised(Protocol):
    """A part that has something to say at the end."""

    def summary(self) -> list[tuple[str, str]]:
        """Lines, each with a colour by pytest's name or ""."""


# A failed save comes last, so that it is seen.
ORDER: tuple[type[Summarised], ...] = (
    OptionEffects,
    MachineFingerprint,
    Preflight,
    Verdicts,
    SideBySide,
    LaunchPlanning,
    Xdist,
    Journaling,
    SessionReport,
    GitHub,
    Saving,
)


class Summary:
    """Shows the summary, after pytest-benchmark's own table."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, object, object]:
        """Shows the summary also where pytest-benchmark raises in its own, as for
        --benchmark-compare-fail. Last of the wrappers: pytest's list of failures comes after."""
        try:
            return (yield)
        finally:
            self._show(terminalreporter)

    def _show(self, terminalreporter: Any) -> None:
        """The table, then what the parts say."""
        self._show_table(terminalreporter)
        for kind in ORDER:
            part = state.part_if_any(self._config, kind)
            for text, colour in part.summary() if part else ():
                terminalreporter.write_line(one_line(text), **({colour: True} if colour else {}))

    def _show_table(self, terminalreporter: Any) -> None:
        shared, records = resources_in_use(self._config), benchmark_file.records(self._config)
        if shared is None or not records:
            return
        from pytest_dnnbench.report.disturbances import disturbances
        from pytest_dnnbench.report.table import study_of, table_lines

        terminalreporter.section("dnnbench")
        terminalreporter.write_line(shared.machine.describe())
        terminalreporter.write_line("")
        for line in table_lines(study_of(records), shutil.get_terminal_size().columns):
            terminalreporter.write_line(line.text, **dict.fromkeys(line.markup, True))
        if text := disturbances(records.values()):
            terminalreporter.write_line(one_line(text), yellow=True)
