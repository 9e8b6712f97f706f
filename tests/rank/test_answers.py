"""What ranks send back is read without trust: bounded, checked, within the time-out."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import RankCrashed, RankFailure, RankRaised, RankUnreadable, UsageError
from pytest_dnnbench.frames import ERROR, MOST_BYTES, MOST_MESSAGE, PICKLED, PLAIN
from pytest_dnnbench.messages import Correctness, RankReport
from pytest_dnnbench.rank.entry import described
from tests.patience import HANG_S, failure_at_hang
from tests.rank import fault_programs


@pytest.fixture
def one_rank(server: ForkServer) -> Ranks:
    """One CPU rank."""
    return Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)


def test_values_of_many_types_come_back_whole(one_rank: Ranks) -> None:
    (result,) = one_rank.run(fault_programs.rich_result)
    assert np.array_equal(result.pop("array"), np.arange(3.0))
    assert repr(result.pop("error")) == "ValueError('told')"
    assert result == {
        "scalar": np.float32(1.5),
        "record": fault_programs.Measured("a", (1, {2}, frozenset({3}))),
        "colour": fault_programs.Colour.RED,
        "path": Path("/a"),
        "complex": 1 + 2j,
    }


def test_tensors_come_back(one_rank: Ranks) -> None:
    (result,) = one_rank.run(fault_programs.tensor_result)
    assert result.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("program", "name"), [("calls_sleep", "time.sleep"), ("calls_exit", "posix._exit")]
)
def test_a_result_that_has_something_called_is_refused_by_name(
    one_rank: Ranks, program: str, name: str
) -> None:
    with pytest.raises(RankUnreadable, match=f"rank 0 of 1 sent a result that would call {name}"):
        one_rank.run(getattr(fault_programs, program))


def test_a_result_of_slow_code_does_not_pass_the_time_out(one_rank: Ranks) -> None:
    begun = time.monotonic()
    late = failure_at_hang(
        one_rank,
        lambda: one_rank.run(fault_programs.calls_own_code, 10 * HANG_S),
        lambda hung: False,
    )
    assert isinstance(late, RankUnreadable)
    assert "could not be unpickled within" in str(late)
    assert time.monotonic() - begun < 5 * HANG_S
    one_rank.timeout_s = HANG_S
    assert one_rank.run(fault_programs.calls_own_code, 0.0) == ["made"]


def test_a_result_that_is_too_large_is_refused_on_the_rank(one_rank: Ranks) -> None:
    with pytest.raises(
        UsageError, match=r"the result takes .* bytes; at most 268,435,456"
    ) as raised:
        one_rank.run(fault_programs.large_result, MOST_BYTES[PICKLED] + 1)
    assert "write it to a file and return its path" in str(raised.value)


def test_a_result_that_cannot_be_pickled_is_told(one_rank: Ranks) -> None:
    with pytest.raises(RankRaised, match="pickle"):
        one_rank.run(fault_programs.unpicklable_result)


def test_plain_data_is_decoded_as_the_type_that_was_asked_for(one_rank: Ranks) -> None:
    target = "tests.rank.programs:place"
    with pytest.raises(RankUnreadable, match="an answer that is no RankReport"):
        one_rank.launch(target, returns=RankReport)
    with pytest.raises(RankUnreadable, match="an answer that is no Correctness"):
        one_rank.launch(target, returns=Correctness)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (fault_programs.forged(b"X", 1, b"x"), "an answer of the unknown kind b'X'"),
        (fault_programs.forged(PICKLED, 1 << 62, b""), "an answer of 4,611,686,018,427,387,904 by"),
        (fault_programs.forged(ERROR, 3, b"abc"), "an answer that is no RankError"),
        (fault_programs.forged(ERROR, 1, b"\x80"), "an answer that is no RankError"),
        (fault_programs.forged(PICKLED, 3, b"abc"), "a result that cannot be unpickled here"),
        (fault_programs.forged(PLAIN, 1, b"\x01"), "an answer of the kind b'P' instead of b'R'"),
    ],
)
def test_a_forged_frame_is_a_clear_failure(one_rank: Ranks, frame: bytes, message: str) -> None:
    with pytest.raises(RankUnreadable) as raised:
        one_rank.run(fault_programs.forge, frame)
    assert f"rank 0 of 1 sent {message}" in str(raised.value)


def test_a_frame_that_is_cut_off_is_a_crash_that_says_so(one_rank: Ranks) -> None:
    frame = fault_programs.forged(PICKLED, 1000, bytes(91))
    with pytest.raises(RankCrashed, match=r"ended with status 0.*100 bytes of its answer"):
        one_rank.run(fault_programs.forge, frame)


def test_an_exception_whose_text_is_broken_is_told_by_its_class(one_rank: Ranks) -> None:
    with pytest.raises(
        RankRaised, match=r"raised BrokenText: .no text: its __str__ raises Runtime"
    ):
        one_rank.run(fault_programs.raise_broken_text)


def test_an_exception_that_cannot_be_pickled_is_told(one_rank: Ranks) -> None:
    with pytest.raises(RankRaised, match="raised Unpicklable: has a lock"):
        one_rank.run(fault_programs.raise_unpicklable)


def test_causes_in_a_circle_are_told(one_rank: Ranks) -> None:
    with pytest.raises(RankRaised, match="raised RuntimeError: first"):
        one_rank.run(fault_programs.raise_in_a_circle)


def test_a_message_of_20_mib_is_cut_to_its_ends(one_rank: Ranks) -> None:
    with pytest.raises(RankRaised) as raised:
        one_rank.run(fault_programs.raise_large_message, 20 << 20)
    text = str(raised.value)
    assert "raised ValueError: begin xxx" in text
    assert "xxx end" in text
    assert f"[... {(20 << 20) + 10 - MOST_MESSAGE:,} characters ...]" in text
    assert len(text) < 30_000
    assert len(one_rank.outputs[0]) < 30_000


def test_a_result_that_ends_the_process_leaves_pytest_running(tmp_path: Path) -> None:
    """In a process of its own, for without the refusal it would end this one with status 0."""
    script = (
        "from pytest_dnnbench.controller.forkserver import ForkServer\n"
        "from pytest_dnnbench.controller.ranks import Ranks\n"
        "from pytest_dnnbench.errors import RankUnreadable\n"
        "from tests.rank import fault_programs\n"
        "with ForkServer(['torch']) as server:\n"
        "    try:\n"
        "        Ranks(server, ['cpu'], threads=1, timeout_s=600).run(fault_programs.calls_exit)\n"
        "    except RankUnreadable:\n"
        "        print('still here')\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout == "still here\n", done.stderr


def test_unreadable_is_a_failure_of_a_rank() -> None:
    assert issubclass(RankUnreadable, RankFailure)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "NCCL error ... ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
        "Cuda failure 2 'out of memory'",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_what_gpu_libraries_say_when_memory_runs_out_is_out_of_memory(text: str) -> None:
    wrapped = ValueError("in a wrapper")
    wrapped.__cause__ = RuntimeError(text)
    assert described(RuntimeError(text)).out_of_memory
    assert described(wrapped).out_of_memory
    assert not described(ValueError(text)).out_of_memory


def test_another_cuda_failure_is_not_out_of_memory() -> None:
    assert not described(RuntimeError("Cuda failure 217 'peer access'")).out_of_memory
    assert not described(RuntimeError("CUDA error: device-side assert triggered")).out_of_memory
