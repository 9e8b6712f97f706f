"""A case that failed in an early round and is run again by pytest-rerunfailures.

That plugin runs a test in a loop of its own. Its first run of such a case is the early round: it
gets the reports of that round, and nothing runs. Before its next run the case makes the launches
that it lacks. Without the plugin rounds.py hands the reports to pytest itself.
"""

import pytest

from pytest_dnnbench.session import rounds, state
from pytest_dnnbench.session.state import EARLY_FAILURE, EARLY_ROUND


class Reruns:
    """Hands the reports of an early round to pytest-rerunfailures."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lacking: dict[str, pytest.Item] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Makes the launches that a case lacks, before it is run again."""
        if item := self._lacking.pop(nodeid, None):
            rounds.catch_up(item, state.settings(self._config).rounds)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Sets nothing up for reports that are there."""
        _leave(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Runs nothing for them."""
        _leave(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """The report of the early round."""
        if not _is_replayed(item):
            return None
        reports: dict[str, pytest.TestReport] = {
            report.when: report for report in item.stash[EARLY_FAILURE] if report.when
        }
        if call.when == "teardown":
            del item.stash[EARLY_FAILURE]
            self._lacking[item.nodeid] = item
        return reports.get(call.when)


def _leave(item: pytest.Item) -> None:
    if _is_replayed(item):
        pytest.skip("failed in an early round")


def _is_replayed(item: pytest.Item) -> bool:
    return EARLY_FAILURE in item.stash and EARLY_ROUND not in item.stash
