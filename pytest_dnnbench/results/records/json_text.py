"""Reading of JSON that others wrote or edited: bounded, and with errors that name the file and the
line. Not here: what the values mean."""

import json
import math
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from pytest_dnnbench.errors import DataError

MOST_BYTES = 512 * 2**20
"""The largest file that is read: 1,000 cases of 50 launches are about 100 MB."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The file's content. Raises DataError when it is absent, no plain file, or larger than `most`
    bytes."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path} is not a file")
        if about.st_size > most:
            raise DataError(f"{path} holds {about.st_size:,} bytes; no such file has over {most:,}")
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
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            line = _line_of_word(content, json.dumps(twice), skip=1)
            raise DataError(f"{path}{line}: duplicate key {twice!r}: keep one of the two")
        return values

    def no_number(text: str) -> NoReturn:
        raise DataError(f"{path}{_line_of_word(content, text)}: {text} is not a number in JSON")

    def too_large(text: str) -> NoReturn:
        line = _line_of_word(content, text)
        raise DataError(f"{path}{line}: the number {text[:12]}... is too large")

    def whole(text: str) -> int:
        value = int(text)
        return value if abs(value) <= sys.float_info.max else too_large(text)

    def decimal(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else too_large(text)

    return _parsed(
        path,
        content,
        object_pairs_hook=unique,
        parse_constant=no_number,
        parse_int=whole,
        parse_float=decimal,
    )


def any_json(path: Path, content: bytes, *, above: int = 0, errors: str = "strict") -> Any:
    """As `check_json`, but takes NaN and Infinity, which Python writes, and keys that an object has
    twice: the last one counts. `above`: lines of the file that stand above this content; `errors`:
    what becomes of bytes that are no UTF-8, as of bytes.decode; with "replace" the reader
    also takes halves of surrogate pairs, and has to make them harmless before it shows them."""
    return _parsed(path, content, above, errors)


def line_of(content: bytes, position: int) -> int:
    """The number of the line that holds this byte, from 1."""
    return content.count(b"\n", 0, position) + 1


def _parsed(
    path: Path, content: bytes, above: int = 0, errors: str = "strict", **hooks: Any
) -> Any:
    where = f"{path}, line {above + 1}" if above else f"{path}"
    try:
        value = json.loads(content.decode("utf-8", errors), **hooks)
        if errors != "replace" and (b"\\ud" in content or b"\\uD" in content):
            # Half of a surrogate pair is no text: it could be neither shown nor saved.
            escape = errors if errors == "surrogateescape" else "strict"
            json.dumps(value, ensure_ascii=False).encode("utf-8", escape)
        return value
    except json.JSONDecodeError as error:
        place = f"{path}, line {above + error.lineno}, column {error.colno}"
        raise DataError(f"{place}: not JSON, or cut off: {error.msg}") from None
    except UnicodeDecodeError as error:
        line = above + line_of(content, error.start)
        raise DataError(f"{path}, line {line}: not UTF-8 text") from None
    except UnicodeEncodeError:
        raise DataError(f"{where}: a text holds half of a pair, as in \\ud800") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise DataError(f"{where}: a whole number has too many digits") from None


def _line_of_word(content: bytes, word: str, *, skip: int = 0) -> str:
    """ ", line N" of a word in the content after `skip` others of it; empty where it is not spelt
    so."""
    place = -1
    for _ in range(skip + 1):
        place = content.find(word.encode(), place + 1)
        if place < 0:
            return ""
    return f", line {line_of(content, place)}"
