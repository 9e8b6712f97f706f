"""A case that failed in an early round and is run again by pytest-rerunfailures.

That plugin runs a test in a loop of its own. Its first run of such a case is the early round: it
gets the reports of that round and the exceptions, by which --only-rerun and --rerun-except choose,
and nothing runs. Before its next run the case makes the launches that it lacks. Without the plugin
rounds.py hands the reports to pytest itself.
"""

import pytest

from pytest_dnnbench.session import rounds, state
from pytest_dnnbench.session.state import EARLY_FAILURE, EARLY_ROUND

_PHASES = ("setup", "call")
"""Of a test, as pytest names them: those that fail a case which is run again."""


class Reruns:
    """Hands the reports of an early round to pytest-rerunfailures."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lacking: dict[str, pytest.Item] = {}
        self._raised: dict[tuple[str, str], BaseException] = {}
        """What a case raised in its early round, by its name and the phase of the test."""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Makes the launches that a case lacks, before it is run again."""
        if item := self._lacking.pop(nodeid, None):
            rounds.catch_up(item, state.settings(self._config).rounds)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Sets nothing up for reports that are there."""
        self._leave(item, "setup")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Runs nothing for them."""
        self._leave(item, "call")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport | None:
        """The report of the early round."""
        if EARLY_ROUND in item.stash and rounds.are_reruns(item):
            self._note(item, call)
        if not _is_replayed(item):
            return None
        reports: dict[str, pytest.TestReport] = {
            report.when: report for report in item.stash[EARLY_FAILURE] if report.when
        }
        if call.when == "teardown":
            del item.stash[EARLY_FAILURE]
            self._lacking[item.nodeid] = item
            for phase in _PHASES:
                self._raised.pop((item.nodeid, phase), None)
        return reports.get(call.when)

    def _note(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        raised = call.excinfo and call.excinfo.value
        if raised and call.when in _PHASES and not isinstance(raised, pytest.skip.Exception):
            self._raised[item.nodeid, call.when] = raised

    def _leave(self, item: pytest.Item, phase: str) -> None:
        if _is_replayed(item):
            if raised := self._raised.get((item.nodeid, phase)):
                raise raised
            # Keeps the phase from running; makereport above gives the early round's report for it.
            pytest.skip("failed in an early round")


def _is_replayed(item: pytest.Item) -> bool:
    return EARLY_FAILURE in item.stash and EARLY_ROUND not in item.stash
