"""Several cases at once, under pytest-xdist. What is leased for whom: controller/placement.py.

    controller     deals the cases out (xdist_deal.py) and merges what comes back on the reports
    xdist worker   measures its own share, in rounds, and sends what pytest-benchmark would have
                   kept

pytest-benchmark switches itself off under pytest-xdist. With --dnn-parallel an xdist worker
measures all the same, and the controller puts the merged benchmarks where stock pytest-benchmark
finds, saves and compares them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_dnnbench.counted import counted
from pytest_dnnbench.session import benchmark_file, rounds, state

_UNTIMED = "dnnbench_untimed"
_REFUSED = "dnnbench_refused"
_PACKED = "dnnbench_benchmarks"
"""Attribute of a report: the benchmarks of its test. pytest-xdist carries plain attributes."""


class Xdist:
    """Gives this process its role, if the session is distributed at all."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._untimed: UntimedController | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Registers the role, before pytest-xdist starts its workers."""
        config = self._config
        if not benchmark_file.is_off_for_xdist(config):
            return  # not distributed, or switched off by the user
        is_worker = state.is_xdist_worker(config)
        if state.settings(config).parallel:
            benchmark_file.time_under_xdist(config)
            role = MeasuringWorker(config) if is_worker else MergingController(config)
            state.add_part(config, role)
        elif is_worker:
            state.add_part(config, UntimedWorker(config))
        else:
            self._untimed = UntimedController()
            state.add_part(config, self._untimed)

    def pass_on(self, refused: pytest.UsageError) -> None:
        """Lets the controller know why no case of the session can be, if this is a worker."""
        if state.is_xdist_worker(self._config):
            output: dict[str, Any] = self._config.workeroutput  # type: ignore[attr-defined] # xdist adds it
            output[_REFUSED] = str(refused)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """An xdist worker is done. Ends the session in the line of one that has refused it: only
        workers collect, and pytest-xdist takes their end for an error of its own."""
        if refused := getattr(node, "workeroutput", {}).get(_REFUSED):
            raise pytest.UsageError(refused)

    def summary(self) -> list[tuple[str, str]]:
        """That nothing was timed, where there was something to time."""
        cases = self._untimed.cases if self._untimed else 0
        if not cases:
            return []
        return [
            (
                f"dnnbench: nothing was timed under -n, only proven ({counted(cases, 'case')});"
                " add --dnn-parallel to time them side by side on disjoint devices",
                "",
            )
        ]


class UntimedWorker:
    """Tells the controller how many cases there are."""

    def __init__(self, config: pytest.Config) -> None:
        self._output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined] # xdist adds it

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Counts the cases."""
        self._output[_UNTIMED] = len(state.cases(session))


class UntimedController:
    """Hears from the xdist workers how many cases there are."""

    def __init__(self) -> None:
        self.cases = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """An xdist worker is done."""
        self.cases = max(self.cases, getattr(node, "workeroutput", {}).get(_UNTIMED, 0))


class MeasuringWorker:
    """Measures the cases of its share and attaches the outcome to their reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        worker: dict[str, Any] = config.workerinput  # type: ignore[attr-defined] # xdist adds it
        self._number = state.xdist_worker_number(worker["workerid"])
        self._workers = int(worker["workercount"])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Deals as the controller does, so that early rounds are those of the own share."""
        for index, item in enumerate(session.items):
            if index % self._workers != self._number:
                item.stash[state.ELSEWHERE] = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Makes the early launches of an item that comes from an xdist worker that died."""
        if item.stash.get(state.ELSEWHERE, False) and state.is_case(item):
            del item.stash[state.ELSEWHERE]
            rounds.catch_up(item, state.settings(self._config).rounds)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attaches what was measured."""
        report = yield
        if call.when == "call":
            setattr(report, _PACKED, benchmark_file.take_packed(self._config))
        return report


class MergingController:
    """Takes the benchmarks off the reports and hands them to pytest-benchmark."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """The deal that the xdist workers know too."""
        from pytest_dnnbench.session.xdist_deal import Shares

        return Shares(config, log)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Merges what a report carries."""
        for packed in getattr(report, _PACKED, ()):
            benchmark_file.add_packed(self._config, packed)
