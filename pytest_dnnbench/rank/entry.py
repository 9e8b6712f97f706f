"""The first and the last thing a rank does: take its request, run its program, hand back what came
of it.

A result travels as frames on the rank's own pipe: one byte of kind, eight of length, then the
pickled body. Pickles are read only from memory and pipes that the two processes share by
inheritance: never from a file or socket.
"""

import contextlib
import errno
import faulthandler
import importlib
import importlib.util
import os
import pickle
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank_status import StatusPage

RESULT, ERROR = b"R", b"E"
FRAME_HEAD = struct.Struct("<cQ")

_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "std::bad_alloc",
    "ALLOC_FAILED",
)
"""How torch's CPU allocator, the device allocators, C++ and the CUDA libraries say it, in
RuntimeErrors."""


def main(message: dict[str, Any], request: int, result: int, board: int, output: int) -> int:
    """Runs one rank's program and returns the process's exit status: 0 reported, 1 raised."""
    rank_phase.say_on(StatusPage(board))
    rank_phase.enter("start")
    _redirect_output(output)
    stacks = open(message["stacks"], "w")  # noqa: SIM115 - stays open for the life of the rank
    faulthandler.enable(file=stacks)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    os.environ.update(message["environment"])
    if message["cores"]:
        os.sched_setaffinity(0, message["cores"])
    os.chdir(message["directory"])
    sys.path[:] = message["sys_path"]
    try:
        place, target, packed = pickle.loads(_read_all(request))  # noqa: S301 - inherited memory, see above
        rank_phase.enter("import")
        function = resolve(target)
        body = pickle.dumps(function(place, *pickle.loads(packed)))  # noqa: S301 - as above
    except BaseException as error:
        traceback.print_exc()
        _send(result, ERROR, pickle.dumps(_describe(error)))
        return 1
    _send(result, RESULT, body)
    return 0


def resolve(target: tuple[str, str, str | None]) -> Callable[..., Any]:
    """The function behind (module, qualified name, file); the file serves where the module has no
    importable name."""
    name, qualified_name, file = target
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError:
        if file is None:
            raise
        found = _load(name, file)
    for part in qualified_name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]  # what a dotted path leads to has no static type


def _load(name: str, file: str) -> Any:
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise ModuleNotFoundError(f"module {name!r} cannot be loaded from {file}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def _describe(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "raised_s": time.monotonic(),
        "out_of_memory": is_out_of_memory(error),
        "step": getattr(error, "step", None),
    }


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or the one that it came from, says that memory of the host or of a
    device ran out."""
    if error is None:
        return False
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # torch's, of any device
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY):
        return True
    return is_out_of_memory(error.__cause__)


def _redirect_output(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)


def _read_all(descriptor: int) -> bytes:
    """The whole of a descriptor that other ranks read too: the shared offset is left alone."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _send(descriptor: int, kind: bytes, body: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb", closefd=False) as pipe:
        pipe.write(FRAME_HEAD.pack(kind, len(body)))
        pipe.write(body)
