"""Interleaves launches over cases: A B C A B C, not A A B B C C.

Launches are the statistical unit, and a machine drifts within minutes; so each round runs every
case once. Rounds before the last run the items without reporting them; there `dnnbench.measure`
makes one launch and leaves the test. The last round is pytest's own loop. An item that fails in an
early round is not run in the others: its reports are handed to pytest when its turn comes.
"""

from collections.abc import Callable, Generator, Sequence

import pytest
from _pytest.runner import runtestprotocol

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.session import state
from pytest_dnnbench.session.benchmark_file import check_histogram, check_targets, is_timed
from pytest_dnnbench.session.resources import resources
from pytest_dnnbench.session.side_by_side import side_by_side
from pytest_dnnbench.session.state import EARLY_FAILURE, EARLY_ROUND, MEASURED


class Rounds:
    """Runs the early rounds before pytest's own loop, and reports what failed in them."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Checks for the workers of pytest-xdist, before they start: what they refuse is shown as
        an internal error."""
        if session.config.getoption("dist", "no") != "no":
            if state.has_options(session.config):
                resources(session.config)
            _check(session.config)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Checks what the cases need, then runs all rounds but the last."""
        config = session.config
        if state.cases_here(session) and not config.option.collectonly:
            if not state.is_xdist_worker(config):
                _check(config)
            if is_timed(config):
                _run_all_rounds(session, _announcer(config))
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Runs a case in an early round without a report. In the last round it reports one that
        failed in an early round instead of running it again."""
        if EARLY_ROUND in item.stash:
            early = runtestprotocol(item, nextitem=nextitem, log=False)
            if any(report.failed for report in early):
                item.stash[EARLY_FAILURE] = [report for report in early if not _is_our_skip(report)]
            return True
        reports = item.stash.get(EARLY_FAILURE, None)
        if reports is None or _is_run_again(item, reports):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _is_run_again(item: pytest.Item, reports: Sequence[pytest.TestReport]) -> bool:
    """Whether pytest-rerunfailures decides if a case that failed is run again (reruns.py). One that
    only a fixture's teardown made fail is reported as it is."""
    failed = any(report.failed and report.when != "teardown" for report in reports)
    return failed and are_reruns(item)


def are_reruns(item: pytest.Item) -> bool:
    """Whether pytest-rerunfailures is there."""
    return bool(item.config.pluginmanager.hasplugin("rerunfailures"))


def _is_our_skip(report: pytest.TestReport) -> bool:
    """Whether a test was only left, after its launch: where a fixture's teardown then fails, the
    test has an error and was not skipped."""
    return report.skipped and MEASURED in str(report.longrepr)


def _check(config: pytest.Config) -> None:
    """Raises pytest.UsageError for settings with which no case can run here."""
    try:
        if is_timed(config):
            check_histogram(config)
            check_targets(config)
        if state.settings(config).dataset != "synthetic":
            resources(config).check()
    except DnnbenchError as error:
        raise state.refused(error, config) from None


def catch_up(item: pytest.Item, launches: int) -> None:
    """Runs the early rounds of an item that it lacks in a row: it came to this process after those
    of the others, or failed in one. Of two environments, its pairs are looked at as in its turn."""
    sides = side_by_side(item.config)
    first, end = (sides.complete(item) + 1, launches + 1) if sides else (1, launches)
    for number in range(first, end):
        if EARLY_FAILURE in item.stash or (sides and sides.is_settled(item)):
            return
        _run_early(item, None, number)
        if sides:
            sides.look(number, item)


def _run_all_rounds(session: pytest.Session, announce: Callable[[str], None]) -> None:
    """Every round but the last, which is pytest's own. Where cases are measured in two
    environments every round is an early one, and a case is left out when its question is
    settled."""
    launches, sides = state.settings(session.config).rounds, side_by_side(session.config)
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        return
    for number in range(1, launches + 1 if sides else launches):
        items = [
            item
            for item in state.cases_here(session)
            if EARLY_FAILURE not in item.stash and not (sides and sides.is_settled(item))
        ]
        if not items:
            return
        announce(f"dnnbench: round {number} of {launches}, {counted(len(items), 'case')}")
        for item, following in zip(items, [*items[1:], None], strict=True):
            if session.shouldstop or session.shouldfail:
                return
            _run_early(item, following, number)
        if sides:
            sides.look(number)


def _run_early(item: pytest.Item, following: pytest.Item | None, number: int) -> None:
    """As pytest's own loop does, so that what other plugins wrap around a test is there too: the
    limit of pytest-timeout, filters of warnings, comparisons in assertions."""
    item.stash[EARLY_ROUND] = number
    try:
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
    finally:
        del item.stash[EARLY_ROUND]


def _announcer(config: pytest.Config) -> Callable[[str], None]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.verbose < 0:
        return lambda line: None
    return lambda line: reporter.write_line(line)
