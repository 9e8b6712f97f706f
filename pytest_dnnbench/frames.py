"""How a rank is started and how it answers: the frame on its pipe and the two messages around it.

    pytest process ──SpawnMessage (JSON, over a socket)──> fork server ──fork──> rank
          ^                                                                       │
          └──────(the rank's own pipe: one frame of a kind below)─────────────────┘

    frame     kind (1 byte) │ length of the body (8 bytes, little-endian) │ body

    PLAIN     MessagePack: what measuring and proving ranks return, decoded as a given type
    PICKLED   a pickle: what a user's own function returned, read by controller/unpickling.py
    PORTABLE  the same from another machine, where no pickle may cross (portable.py)
    ERROR     MessagePack: the fields of a RankError

User code runs on ranks and can write to the pipe: who reads a frame trusts nothing in it, neither
kind nor length nor body. A leaf: imports nothing of ours. Not here: what ranks are asked to do and
what they measure (messages.py).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

FRAME_HEAD = struct.Struct("<cQ")
"""Kind and length of the body."""

PLAIN, PICKLED, PORTABLE, ERROR = b"P", b"R", b"O", b"E"
"""Kinds of a frame."""

MOST_BYTES = {PLAIN: 64 << 20, PICKLED: 256 << 20, PORTABLE: 256 << 20, ERROR: 1 << 20}
"""The largest body of each kind. A report of a million steps takes 35 MB."""

MOST_MESSAGE, MOST_TRACEBACK = 4_000, 16_000
"""Characters of an exception's message and of its traceback that are kept."""


def abridged(text: str, most: int) -> str:
    """The text, or if it has more than `most` characters, its two ends and how much lies between
    them."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[... {len(text) - most:,} characters ...]\n{text[-(most // 2) :]}"


@dataclass(frozen=True, slots=True)
class SpawnMessage:
    """What the fork server needs to start one rank.

    scratch       the launch's folder
    output        file for what the rank prints
    stacks        file for the stacks of its threads, written on a crash and on SIGUSR1
    directory     working directory
    sys_path      `sys.path` of the pytest process
    environment   variables to set on top of the server's own
    unset         variables of the server's own that the rank shall not have
    cores         CPU cores that the rank may run on; empty: those of the server
    """

    scratch: str
    output: str
    stacks: str
    directory: str
    sys_path: tuple[str, ...]
    environment: dict[str, str]
    cores: tuple[int, ...] = ()
    unset: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The message in decoded JSON, whose other keys are left out. Raises KeyError for a key
        that is missing."""
        values = {field.name: data[field.name] for field in fields(cls)}
        tuples = {name: tuple(data[name]) for name in ("sys_path", "cores", "unset")}
        return cls(**values | tuples)


@dataclass(frozen=True, slots=True)
class RankError:
    """An exception that ended a rank's function.

    type            module and qualified name of its class
    message         the exception as text, at most MOST_MESSAGE characters and a note
    traceback       as Python prints it, at most MOST_TRACEBACK characters and a note
    raised_s        when it reached the rank's main function, seconds of the monotonic clock
    out_of_memory   whether memory of the host or of a device ran out
    step            the step that went wrong, where the exception says so (WrongResult.step)
    """

    type: str
    message: str
    traceback: str
    raised_s: float
    out_of_memory: bool
    step: int | None = None
