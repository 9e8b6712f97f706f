"""The first and the last thing that a rank does: it takes its request, runs the function named in
it, and sends the result or the exception (frames.py)."""

import contextlib
import errno
import faulthandler
import importlib
import importlib.util
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from operator import attrgetter

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic
from typing import Any

from pytest_dnnbench.frames import ERROR, FRAME_HEAD, RESULT, RankError, SpawnMessage
from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank_status import StatusPage

_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "std::bad_alloc",
    "ALLOC_FAILED",
)
"""What the RuntimeErrors of torch's CPU allocator, of the device allocators, of C++ and of the CUDA
libraries say when memory runs out."""


def main(message: SpawnMessage, request: int, result: int, page: int, output: int) -> int:
    """Runs one rank and returns the exit status of its process: 0 when it sent a result, 1 when it
    sent an error.

    The other arguments are descriptors: `request` is the memory with the pickled request, `result`
    the pipe for the answer, `page` the rank's status page, `output` the pipe for what it prints.
    """
    rank_phase.report_to(StatusPage(page))
    rank_phase.enter("start")
    _redirect_output(output)
    stacks = open(message.stacks, "w")  # noqa: SIM115 - stays open for the life of the rank
    faulthandler.enable(file=stacks)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    os.environ.update(message.environment)
    if message.cores:
        os.sched_setaffinity(0, message.cores)
    os.chdir(message.directory)
    sys.path[:] = message.sys_path
    try:
        # The arguments are a pickle inside the pickle: unpickling them may import the user's
        # modules, which belongs to the rank phase "import".
        place, target, packed = pickle.loads(_read_all(request))  # noqa: S301 - inherited memory
        rank_phase.enter("import")
        function = resolve(target)
        body = pickle.dumps(function(place, *pickle.loads(packed)))  # noqa: S301 - as above
    except BaseException as error:
        traceback.print_exc()
        _send(result, ERROR, pickle.dumps(asdict(_described(error))))
        return 1
    _send(result, RESULT, body)
    return 0


def resolve(target: tuple[str, str, str | None]) -> Callable[..., Any]:
    """The function behind (module, qualified name, file). The file is loaded where the module
    cannot be imported by its name."""
    name, qualified_name, file = target
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        if file is None:
            raise
        module = _load(name, file)
    # What a dotted path leads to has no static type.
    return attrgetter(qualified_name)(module)  # type: ignore[no-any-return]


def _load(name: str, file: str) -> Any:
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise ModuleNotFoundError(f"module {name!r} cannot be loaded from {file}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def _described(error: BaseException) -> RankError:
    kind = type(error)
    return RankError(
        type=f"{kind.__module__}.{kind.__qualname__}",
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        raised_s=monotonic(),
        out_of_memory=is_out_of_memory(error),
        step=getattr(error, "step", None),
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, says that memory of the host or of a device ran
    out."""
    if error is None:
        return False
    # By name: torch has a class of this name per device, and nothing here imports torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
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
    """All bytes behind a descriptor. Its offset is shared with the pytest process, which has
    written them, so it is neither used nor moved."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _send(descriptor: int, kind: bytes, body: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb", closefd=False) as pipe:
        pipe.write(FRAME_HEAD.pack(kind, len(body)))
        pipe.write(body)
