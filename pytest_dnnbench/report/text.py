"""Text that may be shown: printable, bounded, and cut or padded to a number of columns."""

import unicodedata

from pytest_dnnbench.harmless import one_line

NAME_LENGTH, TEXT_LENGTH = 120, 300
"""Characters kept of a name, and of any other text of a file."""


def printable(value: object, length: int = TEXT_LENGTH) -> str:
    """Printable text of at most `length` characters. A replacement character stands for each
    letter that cannot be printed."""
    text = str(value)
    return one_line(text if len(text) <= length else f"{text[: length - 1]}…")


def width_of(text: str) -> int:
    """Columns of a terminal that printable text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut_middle(text: str, width: int) -> str:
    """The text in at most `width` columns. An ellipsis replaces the middle: names differ in their
    begin and their end."""
    if width_of(text) <= width:
        return text
    if width < 3:
        return _start(text, width)
    end = (width - 1) // 2
    return f"{_start(text, width - 1 - end)}…{_start(text[::-1], end)[::-1]}"


def pad(text: str, width: int, *, left: bool = False) -> str:
    """The text with blanks up to `width` columns, on its right or its left."""
    blanks = " " * (width - width_of(text))
    return blanks + text if left else text + blanks


def _start(text: str, width: int) -> str:
    taken = 0
    for number, letter in enumerate(text):
        taken += _columns(letter)
        if taken > width:
            return text[:number]
    return text


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
