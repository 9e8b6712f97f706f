"""Text that others wrote, made harmless for what shows it: a terminal, or a page of Markdown.

Text of saved files, journals, profiles, ranks and paths may hold control sequences that move the
cursor or hide a line, line breaks that forge a line of ours, and Markdown that fetches a picture
or mentions people. A leaf: imports nothing of ours.
"""

import html
import re
import sys
from collections.abc import Iterable
from typing import TextIO

LONGEST_REFUSAL = 1000
"""Letters. A value that somebody wrote is quoted in it, and may be of any length."""

_STAND_IN = "\N{REPLACEMENT CHARACTER}"

# Markdown's own punctuation. A bar would end the cell of a table.
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
# What a page like GitHub's makes live in plain text whatever is escaped: mentions, issues,
# addresses, pictures by name. In a code span nothing is.
_LIVE = re.compile(r"[@#]|://|www\.|mailto:|:[\w+-]+:", re.IGNORECASE)


def one_line(text: object) -> str:
    """The text in one line of printable letters. A replacement character stands for every other:
    controls, line breaks, directions of writing, halves of pairs."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else _STAND_IN for letter in line)


def refusal(error: object) -> str:
    """The message of an error as one line of at most LONGEST_REFUSAL letters: what is wrong stands
    in its begin, what to do in its end."""
    line = one_line(error)
    half = LONGEST_REFUSAL // 2
    return line if len(line) <= LONGEST_REFUSAL else f"{line[:half]} … {line[3 - half :]}"


def lines(texts: Iterable[object]) -> str:
    """One line for each text, whatever is in it."""
    return "\n".join(map(one_line, texts))


def text_block(text: object) -> str:
    """A text of several lines that we composed ourselves, such as a traceback: its line breaks and
    tabs stay, all else is as in `one_line`."""
    return lines(str(text).expandtabs().split("\n"))


def say(text: object, stream: TextIO | None = None) -> None:
    """Prints a text of several lines to stdout or another stream."""
    print(text_block(text), file=stream or sys.stdout)


def markdown_text(text: object) -> str:
    """One line that Markdown shows as text: no markup, HTML, link, picture or mention. A cell of a
    table can hold it."""
    return " ".join(
        markdown_code(word) if _LIVE.search(word) else _escaped(word)
        for word in one_line(text).split(" ")
    )


def markdown_code(text: object) -> str:
    """One line as a code span, in which nothing is markup. A cell of a table can hold it: a broken
    bar stands for a bar, as an apostrophe does for a backtick."""
    line = one_line(text).replace("`", "'").replace("|", "\N{BROKEN BAR}").strip()
    return f"`{line}`" if line else ""


def _escaped(word: str) -> str:
    return _MARKUP.sub(r"\\\1", html.escape(word, quote=False))
