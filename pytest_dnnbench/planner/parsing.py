"""JSON that others may have damaged: every text gives a document or a ValueError, never a crash.

Python's parser raises three kinds of errors: JSONDecodeError for text that is no JSON,
RecursionError for brackets that are nested too deep, and a plain ValueError for whole numbers of
thousands of digits. Not here: what a document must hold (profile_file.py, plan.py).
"""

import json
from typing import Any, TypeVar

import msgspec

Record = TypeVar("Record")

_LONGEST = 300
"""Characters of an error. A message quotes what is wrong, which may be as long as the file."""


def parsed(content: str | bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError, which says what is wrong and in which line."""
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON: {error.msg}") from error
    except RecursionError:
        raise ValueError("not JSON: its brackets are nested too deep") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {shortened(str(error))}") from error
    if not isinstance(document, dict):
        raise ValueError(f"the file holds a {type(document).__name__}, not an object")
    return document


def converted(document: dict[str, Any], into: type[Record]) -> Record:
    """The document as a record. Raises ValueError, which says what is wrong and where in the
    document."""
    try:
        return msgspec.convert(document, into)
    except (msgspec.ValidationError, OverflowError) as error:
        raise ValueError(shortened(str(error))) from error


def shortened(text: str) -> str:
    """A text for an error message: printable, and not longer than a person reads."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_LONGEST])
    return plain if len(text) <= _LONGEST else f"{plain}..."
