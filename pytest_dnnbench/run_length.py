"""How long a launch warms up or is timed: a number of steps, seconds, or until steps are steady.

A length is plain data, so that settings, messages and records hold it as it is: 200 is a number of
steps, "5s" are seconds, "auto" stands for a warm-up until steps take equally long. A leaf. Not
here: how many steps come of it (rank/warmup.py).
"""

import re

from pytest_dnnbench.errors import UsageError

Length = int | str

AUTO = "auto"

TIMED_STEPS = 10
"""Timed steps of a launch on CPU ranks, unless the user says otherwise."""

TIMED_ON_GPU = "5s"
"""How long a launch on GPUs is timed, unless the user says otherwise: in 0.1 s, 10 steps of a small
model, a GPU's clocks do not even come up."""

FUNCTION_ON_CPU, FUNCTION_ON_GPU = "0.2s", "1s"
"""How long a launch of a timed function is timed, unless the user says otherwise: such a step may
take microseconds or seconds."""

MOST_SECONDS = 1e9
"""Beyond any use, and what waits for so long is still a number to the system."""

MOST_FUNCTION_STEPS = 1000
"""The most steps of such a launch, unless the user says otherwise: every step goes on record."""

_SECONDS = re.compile(r"(?P<number>[0-9]*\.?[0-9]+) ?s")


def seconds_of(length: Length) -> float | None:
    """The seconds of a length; None for a number of steps and for "auto"."""
    matched = _SECONDS.fullmatch(length) if isinstance(length, str) else None
    return float(matched["number"]) if matched else None


def as_seconds(text: str, place: str) -> str:
    """What the user wrote at `place` as a length in seconds. Raises UsageError for anything but a
    positive number with its unit, s."""
    seconds = seconds_of(text.strip())
    if seconds is None:
        raise UsageError(f"{place} {text!r} is no number of seconds: write it with its unit, as 5s")
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(
            f"{place} is {text}: it must be longer than 0 s, and at most {MOST_SECONDS:.0f} s"
        )
    return f"{seconds:g}s"


def as_warmup(text: str, place: str) -> Length:
    """What the user wrote at `place` as the length of a warm-up. Raises UsageError for anything but
    a number of steps, seconds or "auto"."""
    text = str(text).strip()
    if text == AUTO:
        return AUTO
    if re.fullmatch(r"-?[0-9]+", text):
        if not 0 <= int(text[:20]) <= MOST_SECONDS:
            raise UsageError(
                f"{place} is {text}: it must be at least 0 and at most {MOST_SECONDS:.0f}"
            )
        return int(text)
    if seconds_of(text) is None:
        raise UsageError(
            f"{place} {text!r} is no warm-up: write a number of steps, as 3, seconds, as 2s, or"
            f" {AUTO}"
        )
    return as_seconds(text, place)
