"""Slowness planted on real ranks: the breakdown puts it into the right part, and the comparison
with a sound profile names it."""

import gzip
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import (
    FunctionRequest,
    PlanDecision,
    RankReport,
    RunRequest,
    StepProfile,
    TimedRequest,
)
from pytest_dnnbench.results.records.breakdown import breakdown_of
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.profile_entry import ADDS_UP, BreakdownEntry, WhyEntry
from pytest_dnnbench.results.verdicts.why import explain, why_lines
from pytest_dnnbench.step_parts import Part
from tests.patience import HANG_S
from tests.quiet_launches import MOST_LAUNCHES, quiet_launches
from tests.rank.slowed_workers import CAUSES, PLANTED

Profiled = Callable[[str], BreakdownEntry]

WORKER, MODEL = "tests.rank.slowed_workers:SlowedDdp", "tests.rank.slowed_workers:Slowed"
TINY = "tests.tiny_models:tiny"


def launched(
    server: ForkServer,
    request: TimedRequest,
    environment: Mapping[str, str] | None = None,
    planning: str | None = None,
    rendezvous: str | None = None,
) -> Launch:
    """One launch on CPU ranks."""
    ranks = Ranks(
        server,
        ["cpu"] * request.case.gpus,
        threads=1,
        timeout_s=HANG_S,
        environment=environment,
    )
    if planning is not None:
        decision: PlanDecision = ranks.launch(planning, request)[0]
        request = replace(request, plan=decision)
    reports: list[RankReport] = ranks.launch(
        MEASURE, request, rendezvous=load(rendezvous), returns=RankReport
    )
    return Launch(tuple(reports))


@pytest.fixture(scope="module")
def profiled(server: ForkServer) -> Profiled:
    """The breakdown of two ranks with a cause planted, from two quiet launches that all tests
    share."""
    case = Case("ddp", MODEL, 2, "train", batch_size=4)
    request = RunRequest(case, WORKER, MODEL, steps=4, warmup=2, profiled=True)

    @cache
    def breakdown(cause: str) -> BreakdownEntry:
        launches = quiet_launches(lambda: launched(server, request, {PLANTED: cause}))
        entry = breakdown_of(launches)
        assert entry is not None
        return entry

    return breakdown


def seconds(entry: BreakdownEntry, rank: int, part: Part) -> float:
    """Of a rank's step, the mean over the launches."""
    return statistics.fmean(launch[rank].parts_s[part] for launch in entry.launches)


def share(entry: BreakdownEntry, rank: int, part: Part) -> float:
    """Of a rank's steps, in all launches together."""
    whole = statistics.fmean(launch[rank].step_time_s for launch in entry.launches)
    return seconds(entry, rank, part) / whole


@pytest.mark.parametrize("cause", ["", *CAUSES])
def test_the_parts_of_every_rank_add_up_to_its_steps(profiled: Profiled, cause: str) -> None:
    entry = profiled(cause)
    assert len(entry.launches) == 2
    assert entry.adds_up
    assert sum(entry.shares.values()) == pytest.approx(1, abs=1e-3)
    for ranks in entry.launches:
        for rank in ranks:
            assert sum(rank.parts_s.values()) == pytest.approx(rank.step_time_s, rel=ADDS_UP)


@pytest.mark.parametrize(
    ("cause", "rank", "part"),
    [
        ("loader", 0, "data"),
        ("operator", 0, "compute"),
        ("collective", 0, "communication"),
        ("host", 0, "idle"),
        ("late rank", 1, "idle"),
        ("late rank", 0, "communication"),
    ],
)
def test_what_is_slow_dominates_the_part_that_it_belongs_to(
    profiled: Profiled, cause: str, rank: int, part: Part
) -> None:
    """Beside a step of a few milliseconds, whose own part is mostly its exchange."""
    assert share(profiled(cause), rank, part) > 0.5
    assert seconds(profiled(cause), rank, part) > 1.5 * seconds(profiled(""), rank, part)


@pytest.mark.parametrize(
    ("cause", "part", "name"),
    [
        ("loader", "data", ""),
        ("operator", "compute", "aten::mm"),
        ("collective", "communication", "gloo:all_reduce"),
        ("host", "idle", ""),
        ("late rank", "idle", ""),
    ],
)
def test_the_comparison_names_the_cause(
    profiled: Profiled, cause: str, part: str, name: str
) -> None:
    why = explain(profiled(""), profiled(cause))
    assert why.doubt == ""
    first = why.causes[0]
    assert (first.part, first.name[: len(name)]) == (part, name), why_lines(why)
    assert sum(each.share for each in why.causes if each.part == part) > 0.5, why_lines(why)
    if cause == "late rank":
        assert why.rank == 1, "the others wait for it"


def test_two_sound_profiles_name_nothing_that_explains_a_slowdown(profiled: Profiled) -> None:
    why: WhyEntry = explain(profiled(""), profiled(""))
    assert why.causes == []
    assert "do not show the difference" in why.doubt


@pytest.fixture(scope="module")
def profiled_function(server: ForkServer) -> Profiled:
    """As `profiled`, of a user's function."""
    module = "tests.rank.functions"

    @cache
    def breakdown(cause: str) -> BreakdownEntry:
        case = FunctionCase(f"{module}:Planted", "torch", 2, {"cause": cause})
        target = (module, "Planted", None)
        request = FunctionRequest(case, target, None, steps=4, warmup=2, profiled=True)
        entry = breakdown_of(quiet_launches(lambda: launched(server, request)))
        assert entry is not None
        return entry

    return breakdown


@pytest.mark.parametrize(
    ("cause", "part", "name"),
    [
        ("loader", "data", "enumerate(DataLoader)"),
        ("operator", "compute", "aten::mm"),
        ("collective", "communication", "gloo:all_reduce"),
        ("host", "idle", ""),
    ],
)
def test_what_made_a_timed_function_slow_is_named(
    profiled_function: Profiled, cause: str, part: str, name: str
) -> None:
    """The loader is torch's own: nothing in the function marks it."""
    slowed = profiled_function(cause)
    assert slowed.adds_up
    why = explain(profiled_function(""), slowed)
    assert why.doubt == ""
    first = why.causes[0]
    assert (first.part, first.name[: len(name)]) == (part, name), why_lines(why)


def test_a_function_that_sends_and_receives_communicates(
    server: ForkServer, tmp_path: Path
) -> None:
    """It has no stages, so that nothing of it is a bubble."""
    case = FunctionCase("tests.rank.functions:Exchange", "torch", 2)
    target = ("tests.rank.functions", "Exchange", None)
    traces = str(tmp_path / "case")
    request = FunctionRequest(case, target, None, steps=4, warmup=2, profiled=True, traces=traces)
    launch = launched(server, request)
    for rank in (0, 1):
        parts = rank_profile(launch, rank).parts_s
        assert parts["communication"] > 0
        assert "bubble" not in parts
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["case-rank0.json.gz", "case-rank1.json.gz"]


def rank_profile(launch: Launch, rank: int) -> StepProfile:
    profile = launch.reports[rank].profile
    assert profile is not None
    return profile


@pytest.mark.parametrize("framework", ["pipedream", "gpipe"])
def test_unequal_stages_of_a_pipeline_show_a_bubble(
    server: ForkServer, tmp_path: Path, framework: str
) -> None:
    """The rank with the small stage waits for the other, which computes. Our own runtime receives
    in threads, torch's schedules in the thread of the step.

    On a busy machine the small stage is slow too, so one launch has to show it, of as many as are
    made."""
    row = Catalog().framework(framework)
    case = Case(framework, "tests.pipeline.models:lopsided", 2, "train", batch_size=16)
    case = replace(case, options={"stages": "2"})
    request = RunRequest(case, row.worker, case.model, steps=4, warmup=2, profiled=True)
    caches = {"XDG_CACHE_HOME": str(tmp_path)}
    shown = []
    for _ in range(MOST_LAUNCHES):
        launch = launched(server, request, caches, row.planning, row.rendezvous)
        entry = breakdown_of([launch])
        assert entry is not None
        assert entry.adds_up
        parts = [rank_profile(launch, rank) for rank in (0, 1)]
        bubbles = [each.parts_s.get("bubble", 0.0) / each.step_s for each in parts]
        computes = [each.parts_s.get("compute", 0.0) / each.step_s for each in parts]
        small = computes.index(min(computes))
        shown.append((bubbles[small], bubbles[1 - small]))
        if bubbles[small] > max(0.4, 2 * bubbles[1 - small]):
            return
    pytest.fail(f"no launch shows the bubble of the small stage: {shown}")


def test_a_trace_is_whole_and_nothing_is_left_beside_it(server: ForkServer, tmp_path: Path) -> None:
    case = Case("single", TINY, 1, "train", batch_size=4)
    row = Catalog().framework("single")
    folder = tmp_path / "traces"
    folder.mkdir()
    request = RunRequest(case, row.worker, TINY, steps=2, warmup=1, profiled=True)
    launch = launched(server, replace(request, traces=str(folder / "case")))
    assert [path.name for path in folder.iterdir()] == ["case-rank0.json.gz"]
    assert rank_profile(launch, 0).trace == str(folder / "case-rank0.json.gz")
    with gzip.open(folder / "case-rank0.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"dnnbench::open", "dnnbench::close", "dnnbench::data"} <= names

    gone = launched(server, replace(request, traces=str(folder / "gone" / "case")))
    assert "is not written" in rank_profile(gone, 0).trouble
    assert rank_profile(gone, 0).parts_s, "the figures are worth keeping all the same"
