"""The preflight of a session over several nodes: measured before its first case, judged, shown, and
kept for the session's file. It fails no test: what it could not measure, the cases meet."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_dnnbench.controller.node_placement import NodePlacements
from pytest_dnnbench.controller.preflight import preflight
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.resources import resources

if TYPE_CHECKING:
    from pytest_dnnbench.results.records.preflight import PreflightEntry


class Preflight:
    """Measures nodes and links once, in sessions that time cases on several nodes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failure = ""
        self.entry: PreflightEntry | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Before the first round (rounds.py)."""
        config = self._config
        is_run = state.cases_here(session) and not config.option.collectonly
        broken = session.testsfailed and not config.option.continue_on_collection_errors
        if is_run and not broken and benchmark_file.is_timed(config):
            self._measure()
        return (yield)

    def summary(self) -> list[tuple[str, str]]:
        """What was measured in a line, and what is slow."""
        if self._failure:
            return [(self._failure, "yellow")]
        if self.entry is None:
            return []
        slow = [(f"dnnbench: preflight: {line}", "yellow") for line in self.entry.slow]
        return [(f"dnnbench: preflight: {summary_of(self.entry)}", ""), *slow]

    def _measure(self) -> None:
        config, settings = self._config, state.settings(self._config)
        shared = resources(config)
        placements = shared.placements
        if settings.preflight == "off" or not isinstance(placements, NodePlacements):
            return
        if len(placements.cluster.nodes) < 2:
            return
        from pytest_dnnbench.results.verdicts.preflight import judged

        try:
            measured = preflight(placements, settings.timeout)
        except DnnbenchError as error:
            reason = str(error).partition("\n")[0]
            self._failure = f"dnnbench: preflight: not measured: {reason}"
            state.announce(config, self._failure)
            return
        self.entry = shared.preflight = judged(measured, self._history())
        for text in (summary_of(self.entry), *self.entry.slow):
            state.announce(config, one_line(f"dnnbench: preflight: {text}"))

    def _history(self) -> list[PreflightEntry]:
        from pytest_dnnbench.results.baselines.preflight_history import stored_preflights

        try:
            return stored_preflights(benchmark_file.storage_folder(self._config))
        except UsageError:  # sessions are not stored in files
            return []


def summary_of(entry: PreflightEntry) -> str:
    """One line: how many nodes, and the range of their yardsticks and links."""
    from pytest_dnnbench.results.verdicts.preflight import rate_text

    yardsticks = [1e3 * node.typical_s for node in entry.nodes]
    parts = [
        f"{len(entry.nodes)} nodes in {entry.took_s:.0f} s",
        f"yardstick {_span([f'{figure:.2f}' for figure in (min(yardsticks), max(yardsticks))])} ms",
    ]
    for backend in dict.fromkeys(link.backend for link in entry.links):
        links = [link for link in entry.links if link.backend == backend]
        rates = [link.slower_bytes_s for link in links]
        late_s = [link.latency_s for link in links]
        parts.append(
            f"{backend} {_span([rate_text(min(rates)), rate_text(max(rates))])},"
            f" {_span([f'{1e6 * figure:.0f}' for figure in (min(late_s), max(late_s))])} us"
        )
    if entry.links_left_out:
        parts.append(f"{counted(entry.links_left_out, 'link')} left out for want of time")
    return "; ".join(parts)


def _span(texts: list[str]) -> str:
    return " to ".join(dict.fromkeys(texts))
