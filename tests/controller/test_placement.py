"""Placements: what a launch leases, on injected machines with and without GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.leases import VARIABLE, Leases
from pytest_dnnbench.controller.machine import Gpu, Machine
from pytest_dnnbench.controller.placement import Placement, Placements
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.results.records.schema import Conditions
from tests.patience import HANG_S
from tests.rank import programs

GPUS = tuple(Gpu("A fast one", f"GPU-{letter}") for letter in "abcd")
WITH_GPUS = Machine("cuda", GPUS, "550", cores=16, cpu="", why="")
EIGHT_CORES = Machine("cpu", (), None, cores=8, cpu="", why="", affinity=(2, 3, 4, 5, 6, 7, 8, 9))


@pytest.fixture(autouse=True)
def _own_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "leases"))


def placements(
    machine: Machine, *counts: int, timed: bool = True, side_by_side: bool = False
) -> Placements:
    return Placements(machine, Leases(timeout_s=0), counts, timed=timed, side_by_side=side_by_side)


def test_a_lone_session_computes_on_the_first_gpus() -> None:
    with placements(WITH_GPUS, 1, 2, 4)(2) as placement:
        assert placement.devices == ("cuda:0", "cuda:1")
        assert (placement.threads, placement.cores) == (8, ())
    assert placement.conditions.gpu_uuids == ("GPU-a", "GPU-b")


def test_a_second_session_gets_the_gpus_that_are_left_as_cuda_numbers_them() -> None:
    with placements(WITH_GPUS, 1)(1), placements(WITH_GPUS, 2)(2) as other:
        assert other.devices == ("cuda:1", "cuda:2")
    assert other.conditions.gpu_uuids == ("GPU-b", "GPU-c")


def test_ranks_that_share_a_gpu_are_placed_in_a_row_and_kept_apart_for_nccl() -> None:
    """NCCL refuses two ranks of one host on one GPU."""
    shared = replace(WITH_GPUS, ranks_per_gpu=2)
    assert (shared.default_count, shared.shortage(8)) == (8, None)
    assert shared.shortage(9) == "5 GPUs needed and 4 here"
    assert shared.places(3) == ("cuda:0", "cuda:0", "cuda:1")
    with placements(shared, 1, 2, 4)(1) as first, placements(shared, 3)(3) as placement:
        assert (first.devices, first.rank_variables) == (("cuda:0",), ())
        assert placement.devices == ("cuda:1", "cuda:1", "cuda:2")
        assert placement.gpu_uuids == ("GPU-b", "GPU-b", "GPU-c")
        hosts = [placement.variables_of(rank)["NCCL_HOSTID"] for rank in range(3)]
        assert [placement.sharing(rank, range(3)) for rank in range(3)] == [2, 2, 1]
    assert len(set(hosts)) == 3
    assert placement.conditions.gpu_uuids == ("GPU-b", "GPU-c")
    assert [shared.oversubscribed(count) for count in (1, 2, 3)] == [False, True, True]
    assert not WITH_GPUS.oversubscribed(4)


def test_ranks_of_two_nodes_do_not_share_a_gpu_and_cpu_ranks_have_none() -> None:
    placement = Placement(("cuda:0", "cuda:0", "cuda:0", "cuda:1"), 1)
    nodes = [range(2), range(2), range(2, 4), range(2, 4)]
    assert [placement.sharing(rank, node) for rank, node in enumerate(nodes)] == [2, 2, 1, 1]
    assert Placement(("cpu", "cpu"), 1).sharing(1, range(2)) == 1


def test_a_timed_launch_on_the_cpu_has_every_core_for_itself() -> None:
    with placements(EIGHT_CORES, 1, 2)(2) as placement:
        assert (placement.devices, placement.threads, placement.cores) == (("cpu", "cpu"), 4, ())
    assert placement.conditions.cores == EIGHT_CORES.affinity


def test_timed_side_by_side_a_rank_has_the_same_cores_in_every_case_and_stays_on_them() -> None:
    place = placements(EIGHT_CORES, 1, 2, 4, side_by_side=True)
    with place(1) as single, place(2) as two:
        assert (single.threads, single.cores) == (2, (2, 3))
        assert (two.threads, two.cores) == (2, (4, 5, 6, 7))


def test_proofs_side_by_side_take_a_core_and_a_thread_per_rank_and_are_not_watched() -> None:
    place = placements(EIGHT_CORES, 1, 2, timed=False, side_by_side=True)
    with place(2) as two, place(1) as single:
        assert (two.threads, two.cores, single.cores) == (1, (2, 3), (4,))
    assert two.conditions == Conditions(cores=(2, 3))


def test_ranks_that_outnumber_the_cores_take_every_core() -> None:
    with placements(EIGHT_CORES, 9, side_by_side=True)(9) as placement:
        assert (placement.threads, placement.cores) == (1, ())
    assert len(placement.conditions.cores) == 8


def test_variables_of_a_placement_reach_their_rank_and_are_the_launchs_alone(
    server: ForkServer,
) -> None:
    @contextmanager
    def apart(world_size: int) -> Iterator[Placement]:
        yield Placement(
            ("cpu",) * world_size, 1, rank_variables=({"NCCL_HOSTID": "a"}, {"NCCL_HOSTID": "b"})
        )

    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S, placements=apart)
    answers = ranks.launch("tests.rank.programs:host_of_nccl")
    assert answers == [("a", ("NCCL_HOSTID",)), ("b", ("NCCL_HOSTID",))]


def test_ranks_stay_on_the_cores_of_their_lease(server: ForkServer) -> None:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    machine = Machine("cpu", (), None, cores=len(cores), cpu="", why="", affinity=cores)
    ranks = Ranks(
        server,
        ["cpu"],
        threads=4,
        timeout_s=HANG_S,
        placements=placements(machine, 1, timed=False, side_by_side=True),
    )
    assert ranks.run(programs.cores_and_threads) == [([cores[0]], "1")]


def test_under_a_quota_no_rank_is_pinned_and_the_load_of_others_is_not_known() -> None:
    machine = Machine("cpu", (), None, cores=2, cpu="", why="", affinity=tuple(range(64)))
    place = placements(machine, 1, 2, side_by_side=True)
    with place(1) as first, place(1) as second:
        assert (first.cores, second.cores) == ((), ())
    assert (first.conditions.cores, second.conditions.cores) == ((0,), (1,))
    assert first.conditions.others_cores is None


def with_nodes(*cores: tuple[int, ...], quota: int = 8) -> Machine:
    """A machine of eight cores with one GPU per entry, each near the given cores."""
    gpus = tuple(Gpu("H100", f"GPU-{number}", near) for number, near in enumerate(cores))
    return Machine("cuda", gpus, "550", cores=quota, cpu="", why="", affinity=tuple(range(8)))


FIRST, SECOND = (0, 1, 2, 3), (4, 5, 6, 7)


def test_ranks_stay_on_the_cores_near_their_gpus_and_that_is_recorded() -> None:
    with placements(with_nodes(FIRST, SECOND), 2)(2) as placement:
        assert [placement.cores_of(rank) for rank in range(2)] == [FIRST, SECOND]
        assert (placement.threads, placement.gpu_uuids) == (4, ("GPU-0", "GPU-1"))
    assert placement.conditions.rank_cores == (FIRST, SECOND)


def test_ranks_near_the_same_cores_have_no_more_threads_than_cores() -> None:
    with placements(with_nodes(FIRST, FIRST, SECOND), 2)(2) as placement:
        assert placement.rank_cores == (FIRST, FIRST)
        assert placement.threads == 2


@pytest.mark.parametrize(
    "machine",
    [
        with_nodes(FIRST + SECOND, FIRST + SECOND),
        with_nodes(FIRST, ()),
        with_nodes(FIRST, SECOND, quota=4),
    ],
    ids=["one node", "not known", "quota"],
)
def test_ranks_on_gpus_are_not_pinned_where_that_says_nothing(machine: Machine) -> None:
    with placements(machine, 2)(2) as placement:
        assert (placement.cores_of(0), placement.rank_cores) == ((), ())


def test_a_slice_has_no_id_to_be_checked() -> None:
    machine = Machine("cuda", (Gpu("H100", "GPU-a", sliced=True),), "550", 8, "", "")
    with placements(machine, 1)(1) as placement:
        assert placement.gpu_uuids == ("",)
    assert placement.conditions.gpu_uuids == ("GPU-a",)
