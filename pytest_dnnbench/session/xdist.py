"""Several cases at once, under pytest-xdist. What is leased for whom: controller/placement.py.

    controller   deals the cases out (shares.py) and merges what comes back on the reports
    worker       measures its own share, in rounds, and sends what pytest-benchmark would have kept

pytest-benchmark disables itself under xdist. With --dnn-parallel a worker measures all the same,
and the controller puts the merged benchmarks where stock pytest-benchmark finds, saves and compares
them. The attributes of its session that this takes (`benchmarks`, `disabled`, `xdist_warning`, and
what makes it save) are undocumented: they are changed here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.session import rounds

UNTIMED = "dnnbench_untimed"
ATTRIBUTE = "dnnbench_benchmarks"


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Takes the part of this process, if the session is distributed at all."""
    from pytest_dnnbench import plugin

    config = session.config
    benchmarks = getattr(config, "_benchmarksession", None)
    if benchmarks is None or not benchmarks.xdist_warning:
        return  # not distributed, or disabled by the user
    part: object
    if not config.stash[plugin.SETTINGS].parallel:
        part = UntimedWorker(config) if is_worker(config) else UntimedController()
    else:
        part = MeasuringWorker(config) if is_worker(config) else MergingController(config)
        benchmarks.xdist_warning = benchmarks.disabled = False
    config.pluginmanager.register(part, "dnnbench_parallel")


class UntimedWorker:
    """Tells the controller how many cases it knows of."""

    def __init__(self, config: pytest.Config) -> None:
        self.output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined] # xdist adds it to a worker's

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.output[UNTIMED] = len(rounds.measured(session))


class UntimedController:
    """Says that nothing is timed, where there was something to time."""

    def __init__(self) -> None:
        self.cases = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.cases = max(self.cases, getattr(node, "workeroutput", {}).get(UNTIMED, 0))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.cases:
            terminalreporter.write_line(
                f"dnnbench: nothing was timed under -n, only proven ({self.cases} case{'s' * (self.cases > 1)});"
                " add --dnn-parallel to time them side by side on disjoint devices"
            )


class MeasuringWorker:
    """Measures the cases of its share and attaches the outcome to their reports."""

    def __init__(self, config: pytest.Config) -> None:
        self.session = config._benchmarksession  # type: ignore[attr-defined] # pytest-benchmark's, see above
        self.session.save = self.session.autosave = self.session.json = None
        self.session.benchmarks.clear()
        given: dict[str, Any] = config.workerinput  # type: ignore[attr-defined] # xdist adds it to a worker's
        self.number, self.workers = worker_number(given["workerid"]), int(given["workercount"])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The same deal as the controller's, so that early rounds are those of the own share."""
        for index, item in enumerate(session.items):
            if index % self.workers != self.number:
                item.stash[rounds.ELSEWHERE] = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """An item that comes from a worker that died still gets all its launches."""
        from pytest_dnnbench import plugin

        if item.stash.get(rounds.ELSEWHERE, False) and "dnnbench" in getattr(
            item, "fixturenames", ()
        ):
            del item.stash[rounds.ELSEWHERE]
            rounds.catch_up(item, item.config.stash[plugin.SETTINGS].rounds)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "call":
            kept = [pack(one) for one in self.session.benchmarks if not one.has_error]
            setattr(report, ATTRIBUTE, kept)  # xdist carries plain attributes of a report
            self.session.benchmarks.clear()
        return report


class MergingController:
    """Takes the benchmarks off the reports and hands them to pytest-benchmark."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        from pytest_dnnbench.session.xdist_deal import Shares

        return Shares(config, log)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from pytest_dnnbench import plugin

        for packed in getattr(report, ATTRIBUTE, ()):
            benchmark = unpack(packed)
            self.config._benchmarksession.benchmarks.append(benchmark)  # type: ignore[attr-defined] # see above
            if record := benchmark.extra_info.get("dnnbench"):
                plugin.workshop(self.config).records.append(record)


def worker_number(worker_id: str) -> int:
    """3 of "gw3"."""
    return int(worker_id.removeprefix("gw"))


def pack(benchmark: Any) -> dict[str, Any]:
    """What pytest-benchmark keeps of one benchmark, as plain data that a report can carry."""
    return dict(json.loads(json.dumps(benchmark.as_dict(include_data=True), default=str)))


def unpack(packed: dict[str, Any]) -> Any:
    """The same benchmark, as pytest-benchmark keeps it."""
    from pytest_benchmark import stats as kept

    metadata: Any = kept.Metadata
    stats = packed["stats"]
    about = {
        name: packed[name]
        for name in ("name", "fullname", "group", "param", "params", "extra_info")
    }
    benchmark = metadata(
        SimpleNamespace(**about, cprofile_stats=None, has_error=False),
        stats["iterations"],
        packed["options"],
    )
    for duration in stats["data"]:
        benchmark.stats.update(duration)
    return benchmark
