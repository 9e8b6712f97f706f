"""Strict reading and safe writing of JSON that people keep, edit and commit.

Whatever is wrong with a file is told with its name and the place. A write replaces the whole file
or nothing of it.
"""

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from pytest_dnnbench.errors import DataError

# 1,000 cases of 50 launches are about 100 MB; no baseline is larger than this.
MOST_BYTES = 512 * 2**20


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises DataError when it is absent, no plain file, or larger than any
    baseline."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path} is not a file")
        if about.st_size > MOST_BYTES:
            raise DataError(
                f"{path} holds {about.st_size:,} bytes, more than the {MOST_BYTES:,} that any baseline has"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no path: {error}") from None


def check_json(path: Path, content: bytes) -> Any:
    """The JSON value of the content, in which no key comes twice and every number is finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            at = _second(content, twice)
            raise DataError(
                f"{path}{at}: the key {twice!r} stands twice in one object: keep one of them"
            )
        return found

    def no_number(text: str) -> NoReturn:
        raise DataError(
            f"{path}{_second(content, text, first=True)}: {text} is not a number in JSON"
        )

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


def _second(content: bytes, word: str, *, first: bool = False) -> str:
    """ ", line N" of the second (or first) place of a word; nothing when its spelling in the file is another."""
    spelt = word.encode() if first else json.dumps(word).encode()
    place = content.find(spelt)
    if not first and place >= 0:
        place = content.find(spelt, place + 1)
    return f", line {line_of(content, place)}" if place >= 0 else ""
