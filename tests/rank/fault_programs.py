"""Programs for ranks that answer badly, leave something behind, or show their environment."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from pytest_dnnbench.frames import FRAME_HEAD
from pytest_dnnbench.rank.rank_facts import environment as environment_facts


class Calls:
    """An object whose pickle has a function called."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def slow_to_make(seconds: float) -> str:
    """The user's own code may be slow: it is called where the result is unpickled."""
    time.sleep(seconds)
    return "made"


def calls_sleep() -> Calls:
    """What is unpickled sleeps for 25 s."""
    return Calls(time.sleep, 25)


def calls_exit() -> Calls:
    """What is unpickled ends the process with status 0."""
    return Calls(os._exit, 0)


def calls_own_code(seconds: float) -> Calls:
    """What is unpickled calls the user's own function."""
    return Calls(slow_to_make, seconds)


class Colour(Enum):
    """An enumeration of the user's."""

    RED = 1


@dataclass
class Measured:
    """A record of the user's."""

    name: str
    values: Any


def rich_result() -> dict[str, Any]:
    """Values of many types."""
    return {
        "array": np.arange(3.0),
        "scalar": np.float32(1.5),
        "record": Measured("a", (1, {2}, frozenset({3}))),
        "colour": Colour.RED,
        "path": Path("/a"),
        "error": ValueError("told"),
        "complex": 1 + 2j,
    }


def tensor_result() -> torch.Tensor:
    """A tensor, which the reader needs torch for."""
    return torch.arange(3)


def unpicklable_result() -> object:
    """What no pickle can hold."""
    return lambda: None


def large_result(size: int) -> bytes:
    """So many bytes."""
    return bytes(size)


class BrokenText(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unpicklable(Exception):
    """An exception with attributes that cannot be pickled or copied."""

    def __init__(self) -> None:
        super().__init__("has a lock")
        self.step = open(os.devnull)  # noqa: SIM115 - on purpose
        self.lock = time.sleep, lambda: None


def raise_broken_text() -> None:
    """Raises BrokenText."""
    raise BrokenText


def raise_unpicklable() -> None:
    """Raises Unpicklable."""
    raise Unpicklable


def raise_large_message(size: int) -> None:
    """Raises an exception with a message of so many characters."""
    raise ValueError("begin " + "x" * size + " end")


def raise_in_a_circle() -> None:
    """Raises an exception that is the cause of its cause."""
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def forge(frame: bytes) -> None:
    """Writes bytes to every pipe of this process, as code that runs wild may, and ends."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:"):
                os.write(descriptor, frame)
    os._exit(0)


def forged(kind: bytes, size: int, body: bytes) -> bytes:
    """A frame that may lie about its length."""
    return FRAME_HEAD.pack(kind, size) + body


def leave_a_daemon() -> int:
    """Starts a process in a session of its own; returns its id."""
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    return subprocess.Popen(program, start_new_session=True).pid


def leave_a_daemon_and_die(folder: str) -> None:
    """Writes the id of such a process to a file named after it, and dies."""
    pid = leave_a_daemon()
    Path(folder, str(pid)).write_text(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)


def stop_parent() -> None:
    """Stops the fork server."""
    os.kill(os.getppid(), signal.SIGSTOP)


def stop_parent_and_sleep(file: str) -> None:
    """Writes its process id to a file, stops the fork server, and never reports."""
    Path(file).write_text(str(os.getpid()))
    stop_parent()
    time.sleep(3600)


def rest_until(file: str) -> str:
    """A sound rank that takes until this file is there."""
    while not os.path.exists(file):
        time.sleep(0.02)
    return "rested"


def keep_loader_workers() -> int:
    """Keeps the workers of a DataLoader, whose batches come through sockets of multiprocessing;
    returns the size of a batch."""
    data = TensorDataset(torch.arange(64.0))
    loader = DataLoader(data, batch_size=8, num_workers=2, persistent_workers=True)
    batches = iter(loader)
    (batch,) = next(batches)
    _KEPT.append(batches)
    return len(batch)


_KEPT: list[Any] = []


def environment(*names: str) -> dict[str, str | None]:
    """Variables as this rank sees them."""
    return {name: os.environ.get(name) for name in names}


def spin_count() -> tuple[str | None, int]:
    """GOMP_SPINCOUNT here, and the process id of the fork server."""
    return os.environ.get("GOMP_SPINCOUNT"), os.getppid()


def each_line(frame: Any, event: str, argument: Any) -> None:
    """A function that Python calls for every call of another, as coverage's and debuggers'."""


def _attention(name: str) -> Callable[[], object]:
    return lambda: getattr(torch.backends.cuda, f"enable_{name}_sdp")(False)


_MKLDNN: Any = torch.backends.mkldnn
SETTINGS: dict[str, Callable[[], object]] = {
    # Before anything else: torch takes it once.
    "threads between operators": lambda: torch.set_num_interop_threads(3),
    "threads per rank": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "fill_uninitialized_memory": lambda: setattr(
        torch.utils.deterministic, "fill_uninitialized_memory", False
    ),
    "mkldnn": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "mkldnn_deterministic": lambda: setattr(torch.backends.mkldnn, "deterministic", True),
    "mkldnn_conv": lambda: setattr(_MKLDNN.conv, "fp32_precision", "bf16"),
    "mkldnn_rnn": lambda: setattr(_MKLDNN.rnn, "fp32_precision", "bf16"),
    "precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "flush_denormal": lambda: torch.set_flush_denormal(True),
    "detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "attention_flash": _attention("flash"),
    "attention_efficient": _attention("mem_efficient"),
    "attention_math": _attention("math"),
    "attention_cudnn": _attention("cudnn"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "cudnn_deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "fp16_reduction": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False
    ),
    "bf16_reduction": lambda: setattr(
        torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False
    ),
    "fp16_accumulation": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_accumulation", True
    ),
}
"""How to change each setting of torch that must match before runs are compared, by its words, or
the name, in docs/baselines.md."""


def facts_after_each_setting(at: Any) -> dict[str, dict[str, Any]]:
    """The facts of a rank's environment before anything is changed, under "", and after each of
    SETTINGS, which are changed one after the other."""
    facts = {"": environment_facts(at)}
    for name, change in SETTINGS.items():
        change()
        facts[name] = environment_facts(at)
    return facts


def facts_with_settings(at: Any, double: bool) -> dict[str, Any]:
    """The facts of a rank's environment, as a record has them, after a model has changed torch's
    settings and Python's."""
    if double:
        sys.settrace(each_line)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment] # a property of the module
    return environment_facts(at)
