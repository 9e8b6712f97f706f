"""A kernel that at first refuses to execute a program, or to fork."""

import errno
import os
import subprocess
from typing import Any

import pytest


def fail_first(patch: pytest.MonkeyPatch, number: int = errno.EFAULT) -> list[str]:
    """From now on the first start of each command by `subprocess` in this process fails with this
    error. Returns the commands that have failed, in words, as they come."""
    failed: list[str] = []
    execute = subprocess._fork_exec  # type: ignore[attr-defined] # where every start of a program goes

    def refused_once(command: list[Any], *more: Any) -> int:
        words = " ".join(map(os.fsdecode, command))
        if words not in failed:
            failed.append(words)
            raise OSError(number, os.strerror(number))
        return int(execute(command, *more))

    patch.setattr(subprocess, "_fork_exec", refused_once)
    return failed


if "DNNBENCH_TEST_FORKS_FAIL" in os.environ:
    # In a fork server that preloads this module.
    _fork, _left = os.fork, [int(os.environ["DNNBENCH_TEST_FORKS_FAIL"])]

    def _fork_later() -> int:
        if _left[0]:
            _left[0] -= 1
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return _fork()

    os.fork = _fork_later
