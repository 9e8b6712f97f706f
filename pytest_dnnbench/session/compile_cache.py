"""What torch.compile leaves behind for later launches of the session: a folder, made when a case is
first compiled and removed with the session."""

import os
import shutil
import tempfile

from pytest_dnnbench.errors import UsageError

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
THREADS_VARIABLE = "TORCHINDUCTOR_COMPILE_THREADS"

COMPILERS = ("g++", "clang++", "c++")
"""What torch looks for on CPU ranks where CXX names none."""


class CompileCache:
    """The folder of one session. A user's own TORCHINDUCTOR_CACHE_DIR is used and left alone."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._folder: str | None = None

    def variables(self) -> dict[str, str]:
        """The environment variables of ranks that compile. Raises UsageError where CPU ranks have
        no C++ compiler."""
        if self._device == "cpu":
            check_compiler_of_torch()
        chosen = dict[str, str]()
        if CACHE_VARIABLE not in os.environ:
            if self._folder is None:
                # Torch loads pickles and shared libraries from here: nobody else may write to it.
                self._folder = tempfile.mkdtemp(prefix=f"dnnbench-{os.getpid()}-compiled-")
            chosen[CACHE_VARIABLE] = self._folder
        if self._device == "cpu" and THREADS_VARIABLE not in os.environ:
            # Torch's pool of compiling processes would stay beside the timed steps, on their cores.
            chosen[THREADS_VARIABLE] = "1"
        return chosen

    def close(self) -> None:
        """Removes the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def check_compiler_of_torch() -> None:
    """Raises UsageError where torch will find no C++ compiler."""
    named = os.environ.get("CXX")
    if any(map(shutil.which, (named,) if named else COMPILERS)):
        return
    lack = (
        f"CXX names {named!r}, which is not there: correct it"
        if named
        else f"none of {', '.join(COMPILERS)} is on PATH: install one, name it in CXX"
    )
    raise UsageError(
        f"--dnn-compile on CPU ranks needs a C++ compiler, and {lack}, or leave the option out"
    )
