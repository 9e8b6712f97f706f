"""What a rank prints is kept to a bound, the end of it always."""

import os
from pathlib import Path

import pytest
import torch

from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.rank import log
from pytest_dnnbench.rank.entry import is_out_of_memory
from tests.rank import programs


def test_a_flood_is_cut_and_its_end_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    readable, writable = os.pipe()
    kept, largest = log.Log(str(path), readable), 0
    for number in range(3000):
        os.write(writable, b"%7d " % number + b"x" * 1015 + b"\n")
        kept.take()
        largest = max(largest, path.stat().st_size)
    os.write(writable, b"the end\n")
    os.close(writable)
    kept.close()
    assert largest <= log.LIMIT
    text = path.read_text()
    assert text.startswith("[dnnbench: ")
    assert text.endswith("the end\n")
    assert "   2999 xxx" in text
    assert path.stat().st_mode & 0o077 == 0


def test_a_log_ends_although_somebody_prints_on(tmp_path: Path) -> None:
    readable, writable = os.pipe()
    kept = log.Log(str(tmp_path / "log"), readable)
    os.write(writable, b"once")
    kept.close()
    os.close(writable)
    assert (tmp_path / "log").read_text() == "once"


def test_all_that_a_rank_prints_arrives(two_ranks: Ranks) -> None:
    two_ranks.run(programs.print_lines, 500)
    assert [output.split() for output in two_ranks.outputs] == [[str(n) for n in range(500)]] * 2


def test_a_full_disk_loses_output_and_no_rank() -> None:
    readable, writable = os.pipe()
    kept = log.Log("/dev/full", readable)
    os.write(writable, b"lost")
    assert kept.take()
    os.close(writable)
    kept.close()


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
            ),
            True,
        ),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_lack_of_memory_is_recognised(error: BaseException, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_a_devices_lack_of_memory_is_recognised_behind_another_error() -> None:
    error = ValueError("the step failed")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(error)
