"""Printable text (runs.plain): how many columns it takes, cut and padded to a width."""

import unicodedata


def width_of(text: str) -> int:
    """Columns of a terminal that printable text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut_middle(text: str, width: int) -> str:
    """The text in at most `width` columns: begin and end, which tell names apart, and an ellipsis
    between."""
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
