"""The names of nodes as a user writes them: `n1,n2`, or with ranges as Slurm writes them,
`n[01-16,20]` and `rack[1-2]-n[1-4]`.

Not here: which nodes there are (nodes.py).
"""

import itertools
import re

from pytest_dnnbench.errors import UsageError

MOST_NAMES = 10_000
"""More nodes than these nobody gives one session."""

_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def names_of(text: str) -> tuple[str, ...]:
    """The names, in order. Raises UsageError for what cannot be one, or is named twice."""
    names: list[str] = []
    for word in _words(text):
        names += _expanded(word.strip(), text)
        if len(names) > MOST_NAMES:
            raise _wrong(text, f"it names more than {MOST_NAMES:,} nodes")
    for name in names:
        if not name or name.startswith("-") or not name.isprintable() or set(name) & set("[] "):
            raise _wrong(text, f"{name!r} is no name of a node")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _wrong(text, f"it names {twice!r} twice")
    return tuple(names)


def _words(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    return re.split(r",(?![^\[]*\])", text)


def _expanded(word: str, text: str) -> list[str]:
    """The names that a word with brackets stands for; itself without any."""
    pieces = re.split(r"\[([^\[\]]*)\]", word)
    # Every second piece stood in brackets.
    choices = [_numbers(piece, text) if at % 2 else [piece] for at, piece in enumerate(pieces)]
    count = 1
    for numbers in choices:
        count *= len(numbers)
    if count > MOST_NAMES:
        raise _wrong(text, f"it names more than {MOST_NAMES:,} nodes")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _numbers(ranges: str, text: str) -> list[str]:
    """The numbers of `01-03,7`, each as wide as its range begins."""
    numbers: list[str] = []
    for each in ranges.split(","):
        match = _RANGE.fullmatch(each.strip())
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if not int(first) <= int(last) < int(first) + MOST_NAMES:
            raise _wrong(text, f"[{ranges}] is no range of numbers, as in n[1-4,7]")
        numbers += [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    return numbers


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"--dnn-nodes {text!r}: {why}")
