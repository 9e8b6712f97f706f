"""The answer of a rank, read from the frame on its pipe (frames.py) without trusting it: user code
on the rank can write there too. Not here: pickles (unpickling.py), what an error becomes
(rank_failure.py)."""

from dataclasses import replace
from typing import Any

import msgspec

from pytest_dnnbench.counted import counted
from pytest_dnnbench.frames import (
    FRAME_HEAD,
    MOST_BYTES,
    MOST_MESSAGE,
    MOST_TRACEBACK,
    RankError,
    abridged,
)


class Unreadable(Exception):
    """The answer cannot be read; the text continues the sentence "rank N sent ...". Never leaves
    the controller."""


class FrameReader:
    """Puts together the one frame of a rank. What follows the frame is dropped.

    `kind` and `body` are set once the frame is whole; the body of an answer is kept once, as it
    came.
    """

    def __init__(self) -> None:
        self.kind: bytes | None = None
        self.body = b""
        self._received = bytearray()

    @property
    def progress(self) -> str:
        """How much of an unfinished frame has come, in words; empty if none has."""
        if self.kind is not None or not self._received:
            return ""
        return f"{counted(len(self._received), 'byte')} of its answer had arrived"

    def take(self, chunk: bytes) -> bool:
        """Adds what has arrived; True once the frame is whole. Raises Unreadable for a frame that
        cannot be one of ours."""
        if self.kind is not None:
            return True
        self._received += chunk
        if len(self._received) < FRAME_HEAD.size:
            return False
        kind, size = FRAME_HEAD.unpack_from(self._received)
        if kind not in MOST_BYTES:
            raise Unreadable(f"an answer of the unknown kind {kind!r}")
        if size > MOST_BYTES[kind]:
            raise Unreadable(
                f"an answer of {counted(size, 'byte')}; at most {MOST_BYTES[kind]:,} are read"
            )
        if len(self._received) < FRAME_HEAD.size + size:
            return False
        with memoryview(self._received) as whole:
            self.body = bytes(whole[FRAME_HEAD.size : FRAME_HEAD.size + size])
        self.kind = kind
        self._received = bytearray()
        return True


def error_of(body: bytes) -> RankError:
    """The error in a frame of kind ERROR. Raises Unreadable."""
    error: RankError = plain_of(body, RankError)
    # The rank has shortened them already; 100 characters are room for the note that says so.
    return replace(
        error,
        type=abridged(error.type, MOST_MESSAGE),
        message=abridged(error.message, MOST_MESSAGE + 100),
        traceback=abridged(error.traceback, MOST_TRACEBACK + 100),
    )


def plain_of(body: bytes, kind: Any) -> Any:
    """Plain data, decoded and checked as a type. Raises Unreadable."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise Unreadable(f"an answer that is no {name}: {error}") from None
