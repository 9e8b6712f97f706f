"""The marks of a case, parsed: `limits(METRIC="LIMIT")` and `known_regression(reason, until)`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pytest

from pytest_dnnbench.errors import UsageError

if TYPE_CHECKING:
    from pytest_dnnbench.results.baselines.limits import Limit

MARKERS = (
    'limits(METRIC="LIMIT", ...): how much worse than its baseline a metric of this case may be'
    ' ("-5%"), or which figure it must reach (">=3000")',
    "known_regression(reason, until=None): a regression of this case is expected, at most until a"
    " date (2027-01-31)",
)


@dataclass(frozen=True, slots=True)
class KnownRegression:
    """A regression that is expected, and until when."""

    reason: str
    until: date | None

    def holds(self, today: date) -> bool:
        """Whether the regression is still expected."""
        return self.until is None or today <= self.until


def marked_limits(item: pytest.Item) -> dict[str, Limit]:
    """The limits that the case's marks set, the closest mark first. Raises UsageError naming the
    case."""
    from pytest_dnnbench.results.baselines.limits import parse_limits

    limits: dict[str, Limit] = {}
    for mark in item.iter_markers("limits"):
        if mark.args:
            raise UsageError(
                f'{item.nodeid}: write limits(METRIC="LIMIT"), not limits({mark.args[0]!r})'
            )
        limits = {**parse_limits(mark.kwargs, f"limits mark of {item.nodeid}"), **limits}
    return limits


def known_regression(item: pytest.Item) -> KnownRegression | None:
    """The case's known regression. Raises UsageError for a mark without a reason or whose `until`
    is no date."""
    mark = item.get_closest_marker("known_regression")
    if mark is None:
        return None
    reason = mark.kwargs.get("reason", mark.args[0] if mark.args else None)
    until = mark.kwargs.get("until")
    place = f"known_regression mark of {item.nodeid}"
    misplaced = set(mark.kwargs) - {"reason", "until"} or len(mark.args) > 1
    if not isinstance(reason, str) or not reason or misplaced:
        raise UsageError(f'{place}: write known_regression(reason="why", until="2027-01-31")')
    if until is None or isinstance(until, date):
        return KnownRegression(reason, until)
    try:
        return KnownRegression(reason, date.fromisoformat(until))
    except (TypeError, ValueError):
        raise UsageError(
            f"{place}: until={until!r} is not a date: write it as 2027-01-31"
        ) from None
