"""The first and the last thing that a rank does: it takes its request, runs the function named in
it, and sends the result or the exception (frames.py)."""

import contextlib
import errno
import faulthandler
import importlib
import importlib.util
import multiprocessing.process
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic
from typing import Any

import msgspec

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.frames import (
    ERROR,
    FRAME_HEAD,
    MOST_BYTES,
    MOST_MESSAGE,
    MOST_TRACEBACK,
    PLAIN,
    PORTABLE,
    RankError,
    SpawnMessage,
    abridged,
)
from pytest_dnnbench.portable import packed as portable_bytes
from pytest_dnnbench.portable import unpacked
from pytest_dnnbench.rank import rank_phase
from pytest_dnnbench.rank_status import StatusPage

_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "Cuda failure 2 ",
    "std::bad_alloc",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
)
"""What the RuntimeErrors of torch's CPU allocator, of the device allocators, of CUDA's contexts and
events, of NCCL, of C++ and of the CUDA libraries say when memory runs out."""

_MOST_CAUSES = 100
"""Exceptions may name each other as their causes in a circle."""


def main(
    message: SpawnMessage, request: int, result: int, page: int, output: int, store: int | None
) -> int:
    """Runs one rank and returns the exit status of its process: 0 when it sent a result, 1 when it
    sent an error.

    The other arguments are descriptors: `request` is the memory with the pickled request, `result`
    the pipe for the answer, `page` the rank's status page, `output` the pipe for what it prints,
    `store` the socket on which this rank is to keep the launch's store, None where it is not to.
    """
    rank_phase.report_to(StatusPage(page))
    rank_phase.enter("start")
    _redirect_output(output)
    stacks = open(message.stacks, "w")  # noqa: SIM115 - stays open for the life of the rank
    faulthandler.enable(file=stacks)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    for name in message.unset:
        os.environ.pop(name, None)
    os.environ.update(message.environment)
    if message.cores:
        os.sched_setaffinity(0, message.cores)
    try:
        os.chdir(message.directory)
        sys.path[:] = message.sys_path
        _keep_temporary_files_in(message.scratch)
        # The arguments are a pickle inside the pickle: unpickling them may import the user's
        # modules, which belongs to the rank phase "import".
        place, target, packed, kind = pickle.loads(_read_all(request))  # noqa: S301 - inherited memory
        rank_phase.enter("import")
        function = resolve(target)
        arguments = _arguments(packed, portable=bool(place.node))
        place = replace(place, store_descriptor=store)
        body = _encoded(function(place, *arguments), kind)
    except BaseException as error:
        # Nothing is printed: the failure of the launch shows the traceback of its cause.
        _send(result, ERROR, msgspec.msgpack.encode(described(error)))
        return 1
    _send(result, kind, body)
    return 0


def _arguments(packed: bytes, *, portable: bool) -> tuple[Any, ...]:
    """What a function is called with; `portable` where it has come from another machine."""
    if portable:
        arguments: tuple[Any, ...] = unpacked(packed)
    else:
        arguments = pickle.loads(packed)  # noqa: S301 - inherited memory
    return arguments


def _keep_temporary_files_in(scratch: str) -> None:
    """Lets multiprocessing keep its sockets in the launch's folder: a rank ends without the
    clearing up that Python does at exit, and the folder goes with the launch."""
    folder = os.path.join(scratch, f"mp-{os.getpid()}")
    os.mkdir(folder, 0o700)
    # What multiprocessing itself sets, and hands on to its child processes.
    multiprocessing.process.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined] # private


def _encoded(value: Any, kind: bytes) -> bytes:
    """What a function returned, as the body of a frame. Raises UsageError for too much, or for what
    is nested too deep."""
    try:
        body = _bytes_of(value, kind)
    except RecursionError:
        raise UsageError(
            "the result holds too many objects in each other to be returned: return a flat list, or"
            " write it to a file and return its path"
        ) from None
    if len(body) > MOST_BYTES[kind]:
        raise UsageError(
            f"the result takes {len(body):,} bytes; at most {MOST_BYTES[kind]:,} can be returned:"
            " write it to a file and return its path"
        )
    return body


def _bytes_of(value: Any, kind: bytes) -> bytes:
    if kind == PORTABLE:
        return portable_bytes(value)
    if kind == PLAIN:
        return msgspec.msgpack.encode(value, enc_hook=_plain_number)
    return pickle.dumps(value)


def _plain_number(value: Any) -> Any:
    """A number of NumPy or torch, as Python's. Raises NotImplementedError for anything else."""
    if callable(item := getattr(value, "item", None)) and type(value).__module__ in (
        "numpy",
        "torch",
    ):
        return item()
    raise NotImplementedError(
        f"a {type(value).__qualname__} is no plain data: report numbers, text and containers of"
        " them"
    )


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


def described(error: BaseException) -> RankError:
    """An exception as plain data of bounded size, whatever its class does: `__str__` may raise, an
    attribute may be anything."""
    kind, step = type(error), _attribute(error, "step")
    return RankError(
        type=f"{kind.__module__}.{kind.__qualname__}",
        message=abridged(_text(error), MOST_MESSAGE),
        traceback=abridged(_traceback(error), MOST_TRACEBACK),
        raised_s=monotonic(),
        out_of_memory=is_out_of_memory(error),
        step=step if type(step) is int else None,
    )


def _attribute(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def _text(error: BaseException) -> str:
    """What it says, and the notes that it has."""
    try:
        # A subclass of str has methods of its own.
        lines = [str.__str__(str(part)) for part in (error, *getattr(error, "__notes__", ()))]
        return "; ".join(lines).encode("utf-8", "replace").decode()
    except BaseException as broken:
        return f"(no text: its __str__ raises {type(broken).__qualname__})"


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(error)
    except BaseException as broken:
        lines = traceback.format_tb(error.__traceback__)
        lines.append(f"(its text cannot be had: {type(broken).__qualname__})")
    return "".join(lines).encode("utf-8", "replace").decode()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, says that memory of the host or of a device ran
    out."""
    for _ in range(_MOST_CAUSES):
        if error is None:
            return False
        # By name: torch has a class of this name per device, and nothing here imports torch.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and any(sign in _text(error) for sign in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


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
