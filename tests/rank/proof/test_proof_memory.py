"""A proof holds a bounded number of copies of the weights, and says so where there is too little
memory."""

import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.pipeline import planning
from pytest_dnnbench.rank.proof import conditions, shelf
from pytest_dnnbench.rank.proof.conditions import (
    PLENTY_OF_A_RANK,
    ProofCopies,
    ProofOutOfMemory,
    check_room,
)
from pytest_dnnbench.rank.proof.heap import Spending
from pytest_dnnbench.rank.timed_run import prove
from tests.patience import HANG_S

WIDE = "tests.awkward_models:Wide"
WIDE_ADAM = "tests.own_workloads:WideAdam"
COPY = 8 * 7_950_010
"""Bytes of the models' weights in float64, almost all in one tensor."""

LARGEST = 1.0
"""The largest weight once more: a gradient before it is added to those of other shards, or what an
optimiser computes on the way."""

BESIDE = 1.0
"""Copies, 61 MiB, for what does not grow with the model: noise, minibatches, activations, and the
heap of small tensors, in pages of 2 MiB. Pages of libraries are not counted."""


def resident(key: str) -> int:
    """VmHWM, RssAnon or RssFile of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def peak_of_proof(place: Place, request: RunRequest) -> float:
    """Proves on this rank; the growth of its own memory at the peak, in copies."""
    shelf.IN_MEMORY_BYTES = 0
    conditions.PLENTY_OF_A_RANK, conditions.PART_FOR_DRAWS = math.inf, 0.0
    before = resident("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")
    assert not prove(place, request).failures
    return (resident("VmHWM") - resident("RssFile") - before) / COPY


@pytest.mark.parametrize(
    ("framework", "model", "of_rank_0", "of_others"),
    [
        # The reference: weights, momentum, gradients, gradients that rounding has moved. The step
        # of ddp: weights, momentum, gradients, buckets.
        ("ddp", WIDE, 4, 4),
        # The reference: weights, two of AdamW, gradients, moved gradients.
        ("single", WIDE_ADAM, 5, None),
    ],
)
def test_a_proof_holds_a_bounded_number_of_copies(
    server: ForkServer, framework: str, model: str, of_rank_0: int, of_others: int | None
) -> None:
    count = 1 if of_others is None else 2
    case = Case(framework, model, count, "train", batch_size=4)
    worker = Catalog().framework(framework).worker
    request = RunRequest(case, worker, model, steps=1, warmup=0)
    ranks = Ranks(server, ["cpu"] * count, threads=1, timeout_s=HANG_S)
    first, *others = ranks.launch("tests.rank.proof.test_proof_memory:peak_of_proof", request)
    assert first < of_rank_0 + LARGEST + BESIDE
    assert all(other < (of_others or 0) + LARGEST + BESIDE for other in others)


PROGRAM = """
import resource, sys
from pytest_dnnbench.case import Case
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.single import SingleWorker
import torch._dynamo
torch.ones(1 << 20).clone()  # starts torch's threads, each of which takes room
case = Case("single", sys.argv[2], 1, "train", batch_size=4)
worker = SingleWorker(Place(0, 1, "cpu", 1, "", 60.0), RunRequest(case, "", sys.argv[2], 1, 0))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = int(used + float(sys.argv[1]) * 8 * 7_950_010)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    worker.prove()
except MemoryError as error:
    print(error)
"""


def message_of_proof(room: float, model: str) -> str:
    """What the proof of eight million weights says, in a process of its own with room for that many
    more copies in float64."""
    program = [sys.executable, "-c", PROGRAM, str(room), model]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout


def test_a_proof_for_which_there_is_no_room_is_refused_before_it_begins() -> None:
    message = message_of_proof(3.0, WIDE)
    assert message.startswith(
        f"the proof of {WIDE} does not fit: it holds at least 4 float64 copies of the weights on 1"
        " ranks together, 0.2 GiB for 7,950,010 parameters, and this machine has 0.2 GiB free"
    )


def test_a_proof_that_runs_out_of_memory_all_the_same_says_what_it_needs() -> None:
    # What the user's optimiser keeps is not known beforehand.
    message = message_of_proof(3.3, WIDE_ADAM)
    assert message.startswith(f"the proof of {WIDE_ADAM} ran out of memory: it holds at least 3")
    assert "0.2 GiB for 7,950,010 parameters" in message


def place(rank: int, device: str = "cpu", node: str = "", sharing: int = 1) -> Place:
    """One of four ranks, two on a node."""
    at = Place(rank, 4, device, 1, "", 60.0, node=node, local_rank=rank % 2, local_world_size=2)
    return replace(at, sharing=sharing)


@pytest.mark.parametrize(
    ("at", "copies"),
    [
        (place(0), 16.0),  # the steps of four ranks on one machine
        (place(0, node="a"), 8.0),
        (place(2, node="b"), 8.0),
        (place(0, device="cuda:0"), 5.0),  # the reference
        (place(1, device="cuda:1"), 4.0),
        (place(1, device="cuda:0", sharing=3), 12.0),  # the steps of the ranks of that GPU
    ],
)
def test_ranks_that_share_memory_need_it_together(
    monkeypatch: pytest.MonkeyPatch, at: Place, copies: float
) -> None:
    needs = ProofCopies(reference=5.0, steps=4.0)
    assert needs.needed(at) == copies
    module = nn.Linear(999, 1)
    sharing = at.sharing if at.device != "cpu" else 2 if at.node else 4
    just = int(copies * 8000) - sharing * 4000  # which the module itself takes and gives up
    monkeypatch.setattr(conditions, "free_bytes", lambda device: just)
    check_room("m", module, at, needs)
    monkeypatch.setattr(conditions, "free_bytes", lambda device: just - 1)
    with pytest.raises(ProofOutOfMemory, match=f"at least {copies:g} float64 copies"):
        check_room("m", module, at, needs)


def test_the_first_rank_of_a_machine_speaks_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conditions, "free_bytes", lambda device: 0)
    needs, module = ProofCopies(reference=4.0, steps=3.0), nn.Linear(9, 1)
    for silent in (place(1), place(3, node="b")):
        check_room("m", module, silent, needs)


@pytest.mark.parametrize(
    ("at", "free_copies", "freely"),
    [
        (place(0), 4 * PLENTY_OF_A_RANK, True),
        (place(0), 4 * PLENTY_OF_A_RANK - 0.1, False),
        (place(3, node="b"), 2 * PLENTY_OF_A_RANK, True),
        (place(0, device="cuda:0"), 1000.0, False),
        (place(0), None, False),
    ],
)
def test_a_proof_takes_memory_freely_where_each_rank_of_a_machine_has_plenty(
    monkeypatch: pytest.MonkeyPatch, at: Place, free_copies: float | None, freely: bool
) -> None:
    free = None if free_copies is None else int(free_copies * 8000)
    monkeypatch.setattr(conditions, "free_bytes", lambda device: free)
    monkeypatch.setattr(shelf, "IN_MEMORY_BYTES", 0)
    needs, module = ProofCopies(reference=4.0, steps=3.0), nn.Linear(999, 1)
    check_room("m", module, at, needs)
    assert not Spending.is_free()
    with Spending.begun():
        assert not Spending.is_free()
        check_room("m", module, at, needs)
        assert Spending.is_free() is freely
        kept = shelf.put_aside({"weight": module.weight})
        assert (kept["weight"] is kept["weight"]) is freely  # in memory, or in a file
    assert not Spending.is_free()


def test_where_free_memory_is_not_known_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conditions, "free_bytes", lambda device: None)
    check_room("m", nn.Linear(9, 1), place(0), ProofCopies(reference=4.0, steps=3.0))


@pytest.mark.parametrize("decide", [planning.decide, planning.decide_synchronous])
def test_a_pipeline_without_room_for_its_proof_is_refused_before_it_is_profiled(
    monkeypatch: pytest.MonkeyPatch, decide: Callable[[Place, RunRequest], object]
) -> None:
    """vit_h_14 was profiled for ten minutes first."""

    def profiled(at: Place, request: RunRequest) -> object:
        raise AssertionError("no profile is needed to know")

    monkeypatch.setattr(planning, "case_profile", profiled)
    monkeypatch.setattr(planning, "seconds_of_pass", lambda at, pipelines: 0.0)
    monkeypatch.setattr(group, "membership", lambda at: nullcontext())
    monkeypatch.setattr(conditions, "free_bytes", lambda device: 4 * COPY - 1)
    case = Case("1f1b", "m", 2, "train", batch_size=4, options={"bandwidth": 1e9})
    request = RunRequest(case, "", WIDE, steps=2, warmup=1)
    at = Place(0, 2, "cpu", 1, "", 60.0)
    with pytest.raises(ProofOutOfMemory, match=r"at least 4 float64 copies .* 7,950,010 param"):
        decide(at, request)
    monkeypatch.setattr(planning, "_profile", profiled)
    monkeypatch.setattr(conditions, "free_bytes", lambda device: 4 * COPY)
    with pytest.raises(AssertionError, match="no profile"):
        decide(at, request)
