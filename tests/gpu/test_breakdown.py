"""The breakdown of a timed function on a GPU: its kernels are the compute, and a step that waits
for the GPU again and again says so."""

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import FunctionRequest, RankReport
from pytest_dnnbench.results.records.breakdown import breakdown_of
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry
from pytest_dnnbench.results.verdicts.why import explain, why_lines

MODULE, WAITS = "tests.rank.functions", 40

pytestmark = [pytest.mark.only_on_a_gpu, pytest.mark.costs(12)]


def profiled(server: ForkServer, waits: int) -> BreakdownEntry:
    """Two launches of a step that waits for the GPU so often."""
    case = FunctionCase(f"{MODULE}:Waits", "torch", 1, {"times": waits}, device="cuda")
    target = (MODULE, "Waits", None)
    request = FunctionRequest(case, target, None, steps=20, warmup=5, profiled=True)
    ranks = Ranks(server, ["cuda:0"], threads=1, timeout_s=120)
    launches = []
    for _ in range(2):
        reports: list[RankReport] = ranks.launch(MEASURE, request, returns=RankReport)
        launches.append(Launch(tuple(reports)))
    entry = breakdown_of(launches)
    assert entry is not None
    return entry


@pytest.fixture(scope="module")
def entries(server: ForkServer) -> tuple[BreakdownEntry, BreakdownEntry]:
    """Without waits, and with them."""
    return profiled(server, 0), profiled(server, WAITS)


def test_kernels_are_the_compute_of_a_function(
    entries: tuple[BreakdownEntry, BreakdownEntry],
) -> None:
    for entry in entries:
        assert entry.adds_up, entry.parts_over_step
    sound, _ = entries
    assert sound.shares["compute"] > 0.5, sound.shares
    assert any(row.part == "compute" and "gemm" in row.name for row in sound.operators), [
        row.name for row in sound.operators
    ]


def test_a_synchronisation_is_named(entries: tuple[BreakdownEntry, BreakdownEntry]) -> None:
    why = explain(*entries)
    assert why.doubt == "", why.doubt
    waits = [cause for cause in why.causes if "Synchronize" in cause.name]
    assert waits, why_lines(why)
    assert waits[0].now_calls is not None
    assert waits[0].now_calls >= WAITS, why_lines(why)
