"""Strict reading of JSON that people edit by hand. Errors name the file and the line."""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from pytest_dnnbench.errors import DataError

MOST_BYTES = 512 * 2**20
"""The largest file that is read: 1,000 cases of 50 launches are about 100 MB."""


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises DataError when it is absent, no plain file, or larger than
    MOST_BYTES."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path} is not a file")
        if about.st_size > MOST_BYTES:
            raise DataError(
                f"{path} holds {about.st_size:,} bytes; no baseline has more than {MOST_BYTES:,}"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no path: {error}") from None


def check_json(path: Path, content: bytes) -> Any:
    """The JSON value of the content. Raises DataError for a key that an object has twice, and for a
    number that is not finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            line = _line_of_word(content, json.dumps(twice), skip=1)
            raise DataError(f"{path}{line}: duplicate key {twice!r}: keep one of the two")
        return values

    def no_number(text: str) -> NoReturn:
        raise DataError(f"{path}{_line_of_word(content, text)}: {text} is not a number in JSON")

    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number
        )
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {line_of(content, error.start)}: not UTF-8 text") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply to be a baseline") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path}: not JSON: {error}") from None


def line_of(content: bytes, position: int) -> int:
    """The number of the line that holds this byte, from 1."""
    return content.count(b"\n", 0, position) + 1


def _line_of_word(content: bytes, word: str, *, skip: int = 0) -> str:
    """ ", line N" of a word in the content after `skip` others of it; empty where it is not spelt
    so."""
    place = -1
    for _ in range(skip + 1):
        place = content.find(word.encode(), place + 1)
        if place < 0:
            return ""
    return f", line {line_of(content, place)}"
