"""Mutations of a valid file: of its bytes, and of its JSON, drawn from one random generator.

Not here: which files are mutated and who reads them (fuzz_kinds.py).
"""

import json
import random
from collections.abc import Callable
from typing import Any

_HUGE = "9" * 5000
_TEXTS = (
    "", " ", "\n", "\0", "\x1b[2J\x1b[31mok", "\u202e", "\ud800", "-", "..", "/", "1", "nan", "off",
    "a" * 5000, "![a](http://b) @everyone <img>", "loss", "throughput", "yardstick_s", "-5%",
)  # fmt: skip
_NUMBERS = (
    0, -0.0, 1, -1, 2, 3, 0.5, -3, 1e-300, 5e-324, 1e300, 1.7e308, 1e18, 1e19, 2**31, 2**53,
    2**63, 2**64, -(2**63) - 1, 1e-18,
)  # fmt: skip
_RAW = (
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    _HUGE,
    f"-{_HUGE}",
    f"{_HUGE}.5",
    "1e-999",
    "[" * 3000,
)
"""Tokens that Python's writer of JSON does not write."""

_BYTES = (
    b"\xff",
    b"\x00",
    b"\xed\xa0\x80",
    b"\x1b[31m",
    b'"',
    b"{",
    b"[",
    b"]",
    b",",
    b"e999",
    b"\n",
)


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """The content after one to four changes of bytes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        start = chance.randrange(len(changed) + 1)
        end = min(len(changed), start + chance.choice((0, 1, 1, 2, 8, 64)))
        kind = chance.randrange(6)
        if kind == 0:
            del changed[start:end]
        elif kind == 1:
            changed[start:start] = chance.choice(_BYTES)
        elif kind == 2:
            changed[start:end] = chance.randbytes(end - start)
        elif kind == 3:
            changed[start:start] = changed[start:end] * chance.choice((1, 2, 9))
        elif kind == 4:
            del changed[start:]
        elif start < len(changed):
            changed[start] ^= 1 << chance.randrange(8)
    return bytes(changed)


def mutated_json(content: bytes, chance: random.Random) -> bytes:
    """The content, which is JSON, after one to four changes of its values or keys."""
    raw: dict[str, str] = {}
    document = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        places = _places(document)
        if places:
            chance.choice(_CHANGES)(*chance.choice(places), places, raw, chance)
    text = json.dumps(document, indent=chance.choice((None, 1)))
    for stand_in, token in raw.items():
        text = text.replace(f'"{stand_in}"', token)
    return text.encode()


def mutated_lines(content: bytes, chance: random.Random) -> bytes:
    """The content, a line of JSON after the other, with one line's JSON changed."""
    lines = content.splitlines()
    number = chance.randrange(len(lines))
    lines[number] = mutated_json(lines[number], chance).replace(b"\n", b"")
    return b"\n".join(lines) + b"\n"


_Place = tuple[Any, Any]
"""A list or an object, and an index or a key of it."""

_Raw = dict[str, str]


def _places(document: Any) -> list[_Place]:
    places: list[_Place] = []
    waiting = [document]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                waiting.append(value[key])
    return places


def _value(raw: _Raw, chance: random.Random) -> Any:
    kind = chance.randrange(8)
    if kind < 3:
        return chance.choice(_NUMBERS)
    if kind < 5:
        return chance.choice(_TEXTS)
    if kind == 5:
        stand_in = f"raw token {len(raw)}"
        raw[stand_in] = chance.choice(_RAW)
        return stand_in
    return chance.choice((None, True, False, [], {}, [[]], [None], {"a": {}}, [1.0] * 50))


def _replace(parent: Any, key: Any, _: list[_Place], raw: _Raw, chance: random.Random) -> None:
    parent[key] = _value(raw, chance)


def _delete(parent: Any, key: Any, _: list[_Place], raw: _Raw, chance: random.Random) -> None:
    if isinstance(parent, dict) or len(parent) > key:
        del parent[key]


def _take_other(
    parent: Any, key: Any, places: list[_Place], raw: _Raw, chance: random.Random
) -> None:
    """A copy of a value from elsewhere in the document."""
    other, place = chance.choice(places)
    if (other is parent and place == key) or (isinstance(other, list) and place >= len(other)):
        return
    parent[key] = json.loads(json.dumps(other[place]))


def _rename(parent: Any, key: Any, _: list[_Place], raw: _Raw, chance: random.Random) -> None:
    if isinstance(parent, dict):
        parent[chance.choice(_TEXTS)] = parent.pop(key)


def _repeat(parent: Any, key: Any, _: list[_Place], raw: _Raw, chance: random.Random) -> None:
    if isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[f"{key}_"] = parent[key]


def _scale(parent: Any, key: Any, _: list[_Place], raw: _Raw, chance: random.Random) -> None:
    if isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        factor = chance.choice((-1, 0, 1e-300, 1e-30, 1e-3, 0.5, 1.1, 10, 1e9, 1e200))
        parent[key] = min(max(parent[key] * factor, -1.7e308), 1.7e308)


_Change = Callable[[Any, Any, list[_Place], _Raw, random.Random], None]
_CHANGES: tuple[_Change, ...] = (
    _replace, _replace, _replace, _delete, _take_other, _rename, _repeat, _scale, _scale,
)  # fmt: skip
