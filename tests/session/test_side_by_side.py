"""What side B's run of a case has of side A's."""

from typing import Any

from pytest_dnnbench.controller.case_run import CaseRun
from pytest_dnnbench.session.side_by_side import other_run


def test_the_sides_keep_their_traces_and_launches_apart() -> None:
    """B's launch wrote its trace over that of A's launch with the same number."""
    nothing: Any = None
    a = CaseRun(nothing, nothing, nothing, profiled=True, with_yardstick=True, traces="folder/case")
    b = other_run(a, nothing, {"torch": "2.9.1"})
    assert (a.traces, b.traces) == ("folder/case", "folder/case-side-B")
    assert b.profiled
    assert not b.with_yardstick
    assert b.launches is not a.launches
    a.traces = None
    assert other_run(a, nothing, {}).traces is None
