"""How a rank is started and how it answers: the frame on its pipe and the two messages around it.

    pytest process ──SpawnMessage (JSON, over a socket)──> fork server ──fork──> rank
          ^                                                                       │
          └──────(the rank's own pipe: one frame, RESULT or ERROR)────────────────┘

    frame     kind (1 byte) │ length of the body (8 bytes, little-endian) │ body (a pickle)

Pickles are read only from memory and pipes that the two processes share by inheritance: never from
a file or a socket. A leaf: imports nothing of ours. Not here: what ranks are asked to do and what
they measure (messages.py).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

FRAME_HEAD = struct.Struct("<cQ")
"""Kind and length of the body."""

RESULT, ERROR = b"R", b"E"
"""Kinds of a frame. The body of RESULT is what the rank's function returned, that of ERROR the
fields of a RankError."""


@dataclass(frozen=True, slots=True)
class SpawnMessage:
    """What the fork server needs to start one rank.

    scratch       the launch's folder; the server removes it if the pytest process dies
    output        file for what the rank prints
    stacks        file for the stacks of its threads, written on a crash and on SIGUSR1
    directory     working directory
    sys_path      `sys.path` of the pytest process
    environment   variables to set on top of the server's own
    cores         CPU cores that the rank may run on; empty: those of the server
    """

    scratch: str
    output: str
    stacks: str
    directory: str
    sys_path: tuple[str, ...]
    environment: dict[str, str]
    cores: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The message in decoded JSON, whose other keys are left out. Raises KeyError for a key
        that is missing."""
        values = {field.name: data[field.name] for field in fields(cls)}
        return cls(
            **values | {"sys_path": tuple(data["sys_path"]), "cores": tuple(data["cores"] or ())}
        )


@dataclass(frozen=True, slots=True)
class RankError:
    """An exception that ended a rank's function.

    type            module and qualified name of its class
    message         the exception as text
    traceback       as Python prints it
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
