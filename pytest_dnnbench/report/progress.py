"""What a session says while it runs: the words of the status line, the time left, and how a line is
rewritten.

When it is said, and about which case, is decided in session/progress.py. Nothing here reads a
clock.
"""

import statistics
from collections.abc import Callable, Sequence

from pytest_dnnbench.rank_status import RANK_PHASES, RankStatus
from pytest_dnnbench.report.text import cut_middle, printable

_ORDER = {rank_phase: place for place, rank_phase in enumerate(RANK_PHASES)}

MIN_NAME = 12
"""Columns that the name of a case keeps; below that, words are left out."""


class Pace:
    """How long a session will still take: each case's median launch x its launches to come.

    A case that was not launched yet is taken to be like the median of the others.
    """

    def __init__(self, cases: Sequence[str], launches: int) -> None:
        self._to_come = dict.fromkeys(cases, launches)
        self._times: dict[str, list[float]] = {case: [] for case in cases}
        self.left_s: float | None = None

    def note(self, case: str, seconds: float, *, over: bool = False) -> None:
        """Notes the seconds of a launch. `over`: the case failed or is skipped, and will not be
        launched again."""
        if case not in self._to_come:
            return
        self._to_come[case] = 0 if over else max(0, self._to_come[case] - 1)
        if seconds > 0:
            self._times[case].append(seconds)
        self.left_s = self._left()

    def of(self, case: str) -> float | None:
        """Seconds that the next launch of a case will take; None before any launch."""
        return self._median(case, self._typical())

    def _left(self) -> float | None:
        typical = self._typical()
        if typical is None:
            return None
        return sum(
            count * (self._median(case, typical) or 0.0) for case, count in self._to_come.items()
        )

    def _median(self, case: str, typical: float | None) -> float | None:
        times = self._times.get(case)
        return statistics.median(times) if times else typical

    def _typical(self) -> float | None:
        """The median case's median launch; None before any launch."""
        medians = [statistics.median(times) for times in self._times.values() if times]
        return statistics.median(medians) if medians else None


def where(statuses: Sequence[RankStatus], unit: str = "img/s") -> list[str]:
    """The phase and the steps of the running rank that is furthest behind, and the samples per
    second of all ranks together. `unit`: of the case's throughput."""
    if not statuses:
        return ["starting ranks"]
    last = min(statuses, key=lambda status: (_ORDER[status.phase], status.done))
    words = [f"{last.phase} {last.done}/{last.steps}" if last.steps else last.phase]
    samples = sum(status.samples for status in statuses)
    elapsed_s = max(status.elapsed_s for status in statuses)
    if last.phase == "timed steps" and samples and elapsed_s > 0:
        words.append(f"{samples / elapsed_s:,.0f} {unit}")
    return words


def time_left(seconds: float | None) -> list[str]:
    """ "about 40 s left"; no words without an estimate."""
    if seconds is None:
        return []
    if seconds >= 5400:
        return [f"about {seconds / 3600:.1f} h left"]
    if seconds >= 90:
        return [f"about {seconds / 60:.0f} min left"]
    return [f"about {max(1.0, seconds):.0f} s left"]


def status(name: str, words: Sequence[str], width: int) -> str:
    """One line of at most `width` columns: the name is cut first, then words are left out from the
    end."""
    kept = list(words)
    while kept and width - len(_tail(kept)) < MIN_NAME:
        kept.pop()
    tail = _tail(kept)
    return cut_middle(printable(name), width - len(tail)) + tail


def _tail(words: Sequence[str]) -> str:
    return f": {', '.join(words)}" if words else ""


class StatusLine:
    """A line below the one that the cursor is in, rewritten in place; the cursor stays where it is.

    `write` writes and flushes. While the line is shown nothing else may write.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown = ""

    def draw(self, text: str) -> None:
        """Shows the text, which must be narrower than the terminal."""
        if text != self._shown:
            self._write(f"{_MAKE_ROOM}{_SAVE}\r\n{text}{_ERASE_REST}{_RESTORE}")
            self._shown = text

    def erase(self) -> None:
        """Takes the line away."""
        if self._shown:
            self._write(_ERASE_BELOW)
            self._shown = ""


# What every terminal since the VT100 obeys. Down and up in the same column scrolls where there is
# no line below.
_MAKE_ROOM, _SAVE, _RESTORE = "\x1bD\x1b[A", "\x1b7", "\x1b8"
_ERASE_REST, _ERASE_BELOW = "\x1b[K", "\x1b[J"
