"""What crosses between controller and agent, whole and damaged: a frame is a message of ours, or
BadFrame, and nothing else; a portable value is what it was, or ValueError."""

import random
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_messages import BadFrame, Frames, framed
from pytest_dnnbench.controller.gpu_samples import GpuSample
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.portable import MOST_LEVELS, packed, unpacked
from pytest_dnnbench.rank_status import RankStatus
from pytest_dnnbench.results.records.schema import Conditions
from tests.rank import programs as rank_programs

PLACE = Place(1, 2, "cpu", 1, "", 60.0, node="n2", store=("10.0.0.2", 4711))
FROM_CONTROLLER = [
    say.Ping(1),
    say.Begin(2, timeout_s=9.0, address="", rendezvous="a:b", hosts=[Host("10.0.0.2", "eth0", 1)]),
    say.Spawn(
        3,
        place=PLACE,
        target=("m", "f", None),
        arguments=b"\x91\xc0",
        kind=b"P",
        directory="/",
        sys_path=("",),
        environment={"A": "b"},
        unset=(),
        cores=(0,),
    ),
    say.ConfirmEnds(5),
    say.End(4, orderly=False),
]
FROM_AGENT = [
    say.Refused(1, error="UsageError", message="no"),
    say.AnswerChunk(1, b"P" + bytes(50)),
    say.Statuses([(0, RankStatus("build", 1, 2, 3, 0.5))]),
    say.Gathered(
        2, ranks=[say.RankView(0, RankStatus("build"), True, 0.1, "x", "y")], oom_killed=False
    ),
    say.Released(
        3,
        conditions=Conditions(disturbed="why", cores=(1, 2)),
        samples={"GPU-a": [GpuSample(2.5, {"energy_j": 1e6}, {"power_w": 300.0})]},
    ),
]
DAMAGED = 2000
"""Inputs of each side. `python -m tests.cluster.test_frames NUMBER` tries more."""


@pytest.mark.parametrize(
    ("kind", "messages"), [(say.FromController, FROM_CONTROLLER), (say.FromAgent, FROM_AGENT)]
)
def test_messages_arrive_whole_however_they_are_cut(kind: Any, messages: list[Any]) -> None:
    data, chance = b"".join(map(framed, messages)), random.Random(0)
    for _ in range(50):
        frames, arrived, at = Frames(kind), [], 0
        while at < len(data):
            size = chance.randint(1, 40)
            arrived += frames.take(data[at : at + size])
            at += size
        assert arrived == messages


def test_a_message_of_the_other_side_and_a_huge_one_are_refused() -> None:
    with pytest.raises(BadFrame, match="no message of ours"):
        Frames(say.FromAgent).take(framed(say.Ping(1)))
    with pytest.raises(BadFrame, match="at most 1,000 are read"):
        Frames(say.FromAgent, most_bytes=1000).take(struct.pack("<I", 1001))
    body = msgspec.msgpack.encode({"type": "Pong", "token": 1, "clock_s": 1.0, "more": 2})
    with pytest.raises(BadFrame, match="unknown field"):
        Frames(say.FromAgent).take(struct.pack("<I", len(body)) + body)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, removed or repeated."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                del changed[at : at + chance.randint(1, 9)]
            case _:
                changed[at:at] = changed[at : at + chance.randint(1, 9)]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def fuzz_frames(number: int) -> int:
    """Feeds damaged frames; returns how many of them were refused."""
    chance, refused = random.Random(number), 0
    sides: list[tuple[Any, list[Any]]] = [
        (say.FromController, FROM_CONTROLLER),
        (say.FromAgent, FROM_AGENT),
    ]
    for _ in range(number):
        kind, messages = chance.choice(sides)
        try:
            for message in Frames(kind).take(damaged(framed(chance.choice(messages)), chance)):
                framed(message)  # whatever is taken is a message of ours
        except BadFrame:
            refused += 1
    return refused


def test_damaged_frames_are_refused_or_are_messages() -> None:
    assert fuzz_frames(DAMAGED) > DAMAGED / 10


VALUES: list[Any] = [
    None,
    True,
    -5,
    1 << 80,
    0.1,
    "text",
    b"\0\xff",
    [1, [2, (3,)]],
    {"a": {1: None}, (1, 2): {3, 4}},
    frozenset({"x"}),
    Case("ddp", "m:f", 2, "train", options={"a": 1}, nodes=2),
    PLACE,
    RunRequest(Case("ddp", "m:f", 1, "train"), "w:W", "m:f", 3, "auto", plan={"stages": [1]}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_the_same_on_the_other_side(value: Any) -> None:
    back = unpacked(packed(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_is_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    """Also one without elements: it could not be read on the other side."""
    full = torch.arange(6).reshape(2, 3).t().to(dtype)
    for tensor in (full, full[:0], full[0, 0]):
        back = unpacked(packed([tensor]))[0]
        assert back.dtype == dtype
        assert torch.equal(back, tensor)


@pytest.mark.parametrize("array", [np.float64(2.5), np.eye(3, dtype="f4"), np.zeros((0, 2))])
def test_an_array_is_the_same_bit_for_bit(array: Any) -> None:
    back = unpacked(packed(array))
    assert type(back) is type(array)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_what_has_code_of_its_own_does_not_cross() -> None:
    for value in (object(), print, np.array([object()]), Exception("x"), range(3)):
        with pytest.raises(UsageError, match="cannot go to another machine"):
            packed([value])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="holds itself"):
        packed(endless)
    for body in (b"\x80\x05.", msgspec.msgpack.encode(["record", "Popen", "x"]), b"", b"\xc1"):
        with pytest.raises(ValueError, match="no portable value"):
            unpacked(body)


def test_what_crosses_can_be_read_from_a_higher_stack_and_what_is_deeper_is_refused() -> None:
    """A rank's stack is low and pytest's high: what one packed, the other could not read."""

    def on_a_higher_stack(calls: int, body: bytes) -> object:
        return on_a_higher_stack(calls - 1, body) if calls else unpacked(body)

    deep = rank_programs.nested(MOST_LEVELS)
    assert on_a_higher_stack(300, packed(deep)) == deep
    for levels in (MOST_LEVELS + 1, 100_000):
        with pytest.raises(UsageError, match="or whose containers lie more than 200 deep in each"):
            packed({"deep": rank_programs.nested(levels)})


def fuzz_values(number: int) -> int:
    """Reads damaged values; returns how many of them were refused."""
    chance, refused = random.Random(number), 0
    values = [*VALUES, np.eye(2), torch.ones(2)]
    for _ in range(number):
        try:
            unpacked(damaged(packed(chance.choice(values)), chance))
        except ValueError:
            refused += 1
    return refused


def test_damaged_values_are_refused_or_are_values() -> None:
    assert fuzz_values(DAMAGED) > DAMAGED / 10


if __name__ == "__main__":
    import sys

    print(fuzz_frames(int(sys.argv[1])), fuzz_values(int(sys.argv[1])), "refused")
