"""The suite's collectives: every value of a step is the right one, a wrong one is caught, and they
run when they are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.messages import Correctness, FunctionRequest, Place
from pytest_dnnbench.rank.collectives import MOST_RANKS, AllGather
from tests.patience import HANG_S

ROOT = Path(__file__).resolve().parents[2]
OURS = "pytest_dnnbench.rank.collectives"
OF_TORCH = ("AllReduce", "AllGather", "ReduceScatter", "Broadcast", "AllToAll", "SendRecv")
OF_HOROVOD = tuple(f"Horovod{name}" for name in OF_TORCH[:-1])


class Swaps(AllGather):
    """Gets the shares of the ranks in the wrong order: the sum of all values is right."""

    def exchange(self) -> None:
        super().exchange()
        self.target.copy_(self.target.flip(0))


def proven(server: ForkServer, module: str, name: str, size: int, ranks: int) -> list[Correctness]:
    library = "horovod" if name in OF_HOROVOD else "torch"
    case = FunctionCase(f"{module}:{name}", library, ranks, {"size": size}, "check")
    request = FunctionRequest(case, (module, name, None), (OURS, "check", None), 1, 0)
    joined = Ranks(server, ["cpu"] * ranks, threads=1, timeout_s=HANG_S)
    rendezvous = load(Catalog().group(library).rendezvous)
    answers: list[Correctness] = joined.launch(
        PROVE, request, rendezvous=rendezvous, returns=Correctness
    )
    return answers


@pytest.mark.parametrize("name", [*OF_TORCH, *OF_HOROVOD])
def test_every_value_of_a_step_is_right(server: ForkServer, name: str) -> None:
    """On three ranks, where a wrong order, root or neighbour shows."""
    answers = proven(server, OURS, name, 3 * 4 * 2500, 3)
    assert [answer.checked for answer in answers] == [("check",)] * 3


def test_a_wrong_order_is_caught(server: ForkServer) -> None:
    with pytest.raises(WrongResult, match=r"\d+ of 16 values of rank [01] are wrong: at 0 it"):
        proven(server, __name__, "Swaps", 64, 2)


def test_a_size_that_the_ranks_cannot_share_is_refused(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="64 bytes cannot be divided by 3 ranks: give a multiple"):
        proven(server, OURS, "AllGather", 64, 3)


def test_sums_are_exact_for_as_many_ranks_as_stated() -> None:
    made = AllGather(4 * 2048, Place(0, 1, "cpu", 1, "", 1.0))
    largest = max(float(made.given(rank).max()) for rank in range(8))
    assert largest * MOST_RANKS < 2**24, "from there on float32 lacks whole numbers"


def test_more_ranks_than_the_check_can_count_are_refused() -> None:
    place = Place(0, MOST_RANKS + 1, "cpu", 1, "", 1.0)
    with pytest.raises(UsageError, match=r"2049 ranks is not offered: .* at most 2048 ranks"):
        AllGather(4 * (MOST_RANKS + 1), place)


def collected(*words: str) -> str:
    """What a session of the suite would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--dnn-device=cpu", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    return done.stdout + done.stderr


def test_the_suite_runs_collectives_only_where_their_file_is_named() -> None:
    steps = collected("bench_cases", "--gpus", "2")
    assert "test_train[" in steps
    assert "test_collective[" not in steps
    named = collected("bench_cases/test_collectives.py", "--gpus", "2", "--collective-sizes=8KiB")
    assert "test_collective[8KiB-2gpu-torch-all_reduce]" in named
    assert "1gpu" not in named, "a lone rank exchanges nothing"
    assert "test_train[" not in named
    wrong = collected("bench_cases/test_collectives.py", "--collective-sizes=8k")
    assert "--collective-sizes '8k' is no size: write whole numbers with B, KiB" in wrong
