"""What the controller and the agent of a node say to each other, and how it is framed: over the
agent's stdin and stdout, which the engine has joined to ours.

    frame        length of the body (4 bytes, little-endian) │ body: MessagePack of one message
    begin        the agent's first bytes are GREETING; what a login shell prints before is no frame

A request has a token, and exactly one reply has the same. The rest comes unasked: parts of a rank's
answer, the end of a rank, its status, a line for the user. No pickle crosses, and nothing listens:
whoever may start processes on the node through the engine may start the agent, and nobody else can
talk to it. Both sides check frames against these types and end the session at one that is wrong.
"""

import struct
from typing import Any

import msgspec

from pytest_dnnbench.controller.gpu_samples import GpuSample
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank_status import RankStatus
from pytest_dnnbench.results.records.schema import Conditions

GREETING = b"\0dnnbench-agent-1\n"
"""What an agent writes first. A zero byte does not come from a login shell."""

MOST_GREETING_BYTES = 1 << 16
"""Bytes before the greeting that are skipped."""

MOST_FRAME_BYTES = 300 << 20
"""The largest body: a request with the largest arguments."""

END = "--end"
"""The agent's option, before a process id, to end another agent of its node."""

_LENGTH = struct.Struct("<I")


class BadFrame(Exception):
    """Bytes that are no message; the text continues "node N sent ..."."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message of either side."""


class Request(Message, frozen=True):
    """What the controller asks. Its reply has the same token."""

    token: int = 0


class Hello(Request, frozen=True, kw_only=True):
    """The first request: what the agent is to be. `python` is the version of Python, `packages`
    are those of installed.packages; `environment` are variables that decide speed, of the pytest
    process; `preload` the modules of the fork server."""

    python: str
    packages: dict[str, str | None]
    directory: str
    sys_path: list[str]
    environment: dict[str, str]
    preload: list[str]
    device: str
    timed: bool
    lease_timeout_s: float


class Ready(Request, frozen=True, kw_only=True):
    """Wait until the fork server is ready to fork."""

    timeout_s: float


class Ping(Request, frozen=True):
    """What does your clock read?"""


class Route(Request, frozen=True, kw_only=True):
    """By which interface is this address reached?"""

    address: str


class Lease(Request, frozen=True, kw_only=True):
    """Lease the devices of so many ranks. `leased`: another node of this session is on the same
    machine and has taken the leases."""

    ranks: int
    leased: bool


class Begin(Request, frozen=True, kw_only=True):
    """A launch begins. `address`: bind the socket of the launch's store there, unless it is empty.
    `rendezvous` is the "module:function" of what is to run beside the ranks, empty for none;
    `hosts` are all nodes of the launch."""

    timeout_s: float
    address: str
    rendezvous: str
    hosts: list[Host]


class Spawn(Request, frozen=True, kw_only=True):
    """Start a rank (launch_part.RankTask)."""

    place: Place
    target: tuple[str, str, str | None]
    arguments: bytes
    kind: bytes
    directory: str
    sys_path: tuple[str, ...]
    environment: dict[str, str]
    unset: tuple[str, ...]
    cores: tuple[int, ...]


class Poll(Request, frozen=True):
    """Send the status of each rank."""


class ConfirmEnds(Request, frozen=True):
    """Wait until you can say how ranks ended that have ended, and say so before you answer."""


class Gather(Request, frozen=True, kw_only=True):
    """Send what can be seen of each rank."""

    stacks: bool


class Reported(Request, frozen=True):
    """All ranks have reported."""


class Kill(Request, frozen=True):
    """Begin to kill the ranks."""


class End(Request, frozen=True, kw_only=True):
    """End the ranks and the launch."""

    orderly: bool


class Release(Request, frozen=True):
    """Give the leases back."""


class Reply(Message, frozen=True):
    """What the agent answers."""

    token: int


class Done(Reply, frozen=True):
    """Done, and nothing to say."""


class Refused(Reply, frozen=True, kw_only=True):
    """It cannot be done. `error` is the name of a class in errors.py."""

    error: str
    message: str


class Welcome(Reply, frozen=True, kw_only=True):
    """The node: its devices, its addresses and the nominal speeds of its network in Mbit/s (both by
    interface), what identifies its machine, and the agent's process."""

    machine: Machine
    addresses: dict[str, str]
    speeds: dict[str, int]
    boot_id: str
    hostname: str
    pid: int


class Pong(Reply, frozen=True, kw_only=True):
    """Seconds of the node's monotonic clock."""

    clock_s: float


class Routed(Reply, frozen=True, kw_only=True):
    """The interface and this node's own address on it; both empty without a route."""

    interface: str
    source: str


class Leased(Reply, frozen=True, kw_only=True):
    """The placement of the ranks (placement.Placement)."""

    devices: tuple[str, ...]
    threads: int
    cores: tuple[int, ...]
    gpu_uuids: tuple[str, ...]
    rank_cores: tuple[tuple[int, ...], ...]
    rank_variables: tuple[dict[str, str], ...]


class Begun(Reply, frozen=True, kw_only=True):
    """The port of the launch's store, 0 for none, and the variables that the rendezvous gives to
    each rank of the launch; empty without a rendezvous."""

    port: int
    environments: list[dict[str, str]]


class Spawned(Reply, frozen=True, kw_only=True):
    """The process of a rank."""

    pid: int


class RankView(msgspec.Struct, frozen=True):
    """What can be seen of a rank at one moment."""

    number: int
    status: RankStatus
    stopped: bool
    timing_s: float
    output: str
    stacks: str


class Gathered(Reply, frozen=True, kw_only=True):
    """What can be seen of each rank, and whether the kernel killed a process on this node for lack
    of memory since the launch began."""

    ranks: list[RankView]
    oom_killed: bool


class Released(Reply, frozen=True, kw_only=True):
    """What was observed while the devices were leased, and the readings of the node's GPUs by the
    node's own clock."""

    conditions: Conditions
    samples: dict[str, list[GpuSample]] = {}


class AnswerChunk(Message, frozen=True):
    """A part of a rank's answer, as it was on the rank's pipe."""

    rank: int
    chunk: bytes


class RankExited(Message, frozen=True):
    """A rank's process has ended."""

    rank: int
    code: int
    oom_killed: bool


class Statuses(Message, frozen=True):
    """The status of each rank."""

    ranks: list[tuple[int, RankStatus]]


class Notice(Message, frozen=True):
    """A line for the user."""

    line: str


class Terminated(Message, frozen=True):
    """The agent was told to end, as before a time limit or by preemption."""

    signal: str


FromController = (
    Hello
    | Ready
    | Ping
    | Route
    | Lease
    | Begin
    | Spawn
    | Poll
    | ConfirmEnds
    | Gather
    | Reported
    | Kill
    | End
    | Release
)
FromAgent = (
    Done
    | Refused
    | Welcome
    | Pong
    | Routed
    | Leased
    | Begun
    | Spawned
    | Gathered
    | Released
    | AnswerChunk
    | RankExited
    | Statuses
    | Notice
    | Terminated
)


def framed(message: Message) -> bytes:
    """A message as its frame. Raises BadFrame for one that is too large."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MOST_FRAME_BYTES:
        raise BadFrame(
            f"a message of {len(body):,} bytes; at most {MOST_FRAME_BYTES:,} can be sent"
        )
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Puts messages of one side together from the bytes that arrive. `kind` is FromController or
    FromAgent."""

    def __init__(self, kind: Any, most_bytes: int = MOST_FRAME_BYTES) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._most_bytes = most_bytes
        self._received = bytearray()

    def take(self, data: bytes) -> list[Any]:
        """Adds what has arrived; returns the messages that are whole now. Raises BadFrame."""
        self._received += data
        messages, at = [], 0
        while len(self._received) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._received, at)
            if size > self._most_bytes:
                raise BadFrame(f"a frame of {size:,} bytes; at most {self._most_bytes:,} are read")
            begin = at + _LENGTH.size
            if len(self._received) < begin + size:
                break
            messages.append(self._decoded(bytes(self._received[begin : begin + size])))
            at = begin + size
        del self._received[:at]
        return messages

    def _decoded(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError, TypeError) as error:
            raise BadFrame(f"a frame that is no message of ours: {error}") from None
        except Exception as error:  # what a class of ours raises for a value that it cannot have
            raise BadFrame(f"a frame with an impossible value: {error}") from None
