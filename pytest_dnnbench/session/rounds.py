"""Interleaves launches over cases: A B C A B C, not A A B B C C.

Launches are the statistical unit, and a machine drifts within minutes; so each round runs every
case once. Rounds before the last run the items without reporting them; there `dnnbench.measure`
makes one launch and leaves the test. The last round is pytest's own loop. An item that fails in an
early round is not run again: its reports are handed to pytest when its turn comes.
"""

from collections.abc import Callable

import pytest
from _pytest.runner import runtestprotocol

FAILED = pytest.StashKey[list[pytest.TestReport]]()
EARLY = pytest.StashKey[int]()
"""Of an item that runs in an early round: the number of that round, from 1."""
ELSEWHERE = pytest.StashKey[bool]()
"""Of an item that another worker of pytest-xdist is to run."""


def measured(session: pytest.Session) -> list[pytest.Item]:
    """The items of this process that measure something."""
    return [
        item
        for item in session.items
        if "dnnbench" in getattr(item, "fixturenames", ()) and not item.stash.get(ELSEWHERE, False)
    ]


def run_early_rounds(
    session: pytest.Session, launches: int, announce: Callable[[str], None]
) -> None:
    """Runs all rounds but the last."""
    items = measured(session)
    if session.config.option.collectonly or (
        session.testsfailed and not session.config.option.continue_on_collection_errors
    ):
        return
    for number in range(1, launches):
        announce(f"dnnbench: round {number} of {launches}, {len(items)} cases")
        for item, following in zip(items, [*items[1:], None], strict=True):
            if session.shouldstop or session.shouldfail:
                return
            if FAILED not in item.stash:
                _run_early(item, following, number)


def _run_early(item: pytest.Item, following: pytest.Item | None, number: int) -> None:
    item.stash[EARLY] = number
    try:
        reports = runtestprotocol(item, nextitem=following, log=False)
    finally:
        del item.stash[EARLY]
    if any(report.failed for report in reports):
        item.stash[FAILED] = reports


def catch_up(item: pytest.Item, launches: int) -> None:
    """Runs an item's early rounds in a row: it came to this process after those of the others."""
    for number in range(1, launches):
        if FAILED not in item.stash:
            _run_early(item, None, number)


def replay_failure(item: pytest.Item) -> bool:
    """Reports an item that failed in an early round; False when there is nothing to report."""
    reports = item.stash.get(FAILED, None)
    if reports is None:
        return False
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
