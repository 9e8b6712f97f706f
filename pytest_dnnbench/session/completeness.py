"""What of the session ran to its end. An exit status does not tell: `pytest.exit("enough",
returncode=0)` ends a session as a success with half of its cases undone."""

import pytest

from pytest_dnnbench.session import state

_RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class Completion:
    """Notes which cases came to their end, whatever became of them."""

    def __init__(self) -> None:
        self._finished: set[str] = set()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over; not called for one that an interruption cut off."""
        self._finished.add(nodeid)

    def is_complete(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> bool:
        """Whether every case of the session came to its end.

        The controller of pytest-xdist collects no cases: there the status has to do.
        """
        undone = [case for case in state.cases_here(session) if case.nodeid not in self._finished]
        return exitstatus in _RAN and not undone
