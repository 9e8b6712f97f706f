"""Causes of slowness planted in side B's copy of a module: real ranks of two sides are profiled,
and what grew is named. Causes on the ranks of one environment: test_breakdown.py."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_dnnbench.controller.case_run import CaseRun
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.controller.side import other_side
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import FunctionRequest
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.records.side_by_side import OtherSide, SideEntry, SideMetric
from pytest_dnnbench.results.verdicts.side_by_side_text import reason
from pytest_dnnbench.session.side_profiles import explain_pair
from tests.patience import HANG_S
from tests.quiet_launches import quiet_launches
from tests.rank.sides import SIDE_CAUSES, step_module
from tests.report.records import measured

WORSE = SideMetric(
    status="worse", a=10.0, b=5.0, change=-0.5, interval=(-0.6, -0.4), detectable=0.1, pairs=8
)
NAMES = {
    "operator": ("compute", "aten::mm"),
    "collective": ("communication", "gloo:all_reduce"),
    "loader": ("data", "enumerate(DataLoader)"),
    "synchronisation": ("communication", "gloo:barrier"),
}


@pytest.fixture(scope="module")
def sides(
    server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ForkServer, ForkServer]]:
    """The servers of both sides, each of which finds a module of its own under the same name."""
    folder = tmp_path_factory.mktemp("sides")
    for side in ("a", "b"):
        path = folder / side / "sided_step.py"
        path.parent.mkdir()
        path.write_text(step_module(planted=side == "b"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "a"))
        with ForkServer(side=other_side("b", sys.executable, [str(folder / "b")], {})) as other:
            other.wait_ready()
            yield server, other


class QuietRun(CaseRun):
    """A run that is explained by launches of quiet moments."""

    _quiet: tuple[Launch, ...] = ()

    def again(self, count: int, *, profiled: bool = False) -> list[Launch]:
        """The next of them."""
        if not self._quiet:
            self._quiet = tuple(
                quiet_launches(lambda: super(QuietRun, self).again(1, profiled=profiled)[0])
            )
        launches, self._quiet = self._quiet[:count], self._quiet[count:]
        return list(launches)


def run_of(server: ForkServer, cause: str) -> CaseRun:
    case = FunctionCase("sided_step:Step", "torch", 2, {"cause": cause})
    request = FunctionRequest(case, ("sided_step", "Step", None), None, steps=4, warmup=2)
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    return QuietRun(request, RankLauncher(ranks), detect("cpu"))


def slower_on_b() -> Record:
    record = measured("ddp", "resnet18", 2)
    side = SideEntry(name="b", python="python")
    record.against = OtherSide(side=side, compared={"throughput": WORSE})
    return record


@pytest.mark.parametrize("cause", SIDE_CAUSES)
def test_what_made_side_b_slower_is_named(sides: tuple[ForkServer, ForkServer], cause: str) -> None:
    record = slower_on_b()
    explain_pair(record, *(run_of(server, cause) for server in sides))
    other = record.against
    assert other is not None
    assert other.why is not None
    lines = reason(other)
    assert other.why.doubt == "", lines
    first, (part, name) = other.why.causes[0], NAMES[cause]
    assert (first.part, first.name[: len(name)]) == (part, name), lines
    assert sum(each.share for each in other.why.causes if each.part == part) > 0.5, lines
    assert " more on side B (" in lines[0]
    for breakdown in (record.breakdown, other.breakdown):
        assert breakdown is not None
        assert len(breakdown.launches) == 2


def test_profiled_launches_that_fail_cost_the_explanation_alone() -> None:
    class Failing:
        def again(self, count: int, *, profiled: bool = False) -> Any:
            raise LaunchError("the ranks are gone")

    failing: Any = Failing()
    record = slower_on_b()
    explain_pair(record, failing, failing)
    assert record.against is not None
    assert record.against.compared == {"throughput": WORSE}
    assert reason(record.against) == ["why: the profiled launches failed: the ranks are gone"]


def test_sides_that_do_not_differ_in_time_are_not_profiled() -> None:
    record = measured("ddp", "resnet18", 2)
    nobody: Any = None
    explain_pair(record, nobody, nobody)
    side = SideEntry(name="b", python="python")
    record.against = OtherSide(side=side, compared={"resident_peak_bytes": WORSE})
    explain_pair(record, nobody, nobody)
    assert record.against.why is None
