"""What a session says while it runs: the words of the status line, the time left, and how a line is
rewritten.

When it is said, and about which case, is live.py's affair. Nothing here reads a clock.
"""

import statistics
from collections.abc import Callable, Sequence

from pytest_dnnbench.rank_status import RANK_PHASES, RankStatus
from pytest_dnnbench.report.runs import plain
from pytest_dnnbench.report.text import cut_middle

_ORDER = {phase: place for place, phase in enumerate(RANK_PHASES)}

MIN_NAME = 12
"""Columns that the name of a case keeps; below that, words are left out."""


class Pace:
    """How long the launches of each case have taken, and so how long those to come will take.

    A first launch has the proof before it. A case without one is taken to be like the others in the
    middle.
    """

    def __init__(self, cases: Sequence[str], launches: int) -> None:
        self._to_come = dict.fromkeys(cases, launches)
        self._times: dict[str, list[float]] = {case: [] for case in cases}
        self.left_s: float | None = None

    def note(self, case: str, seconds: float, *, over: bool = False) -> None:
        """A launch has taken so long; `over`: the case will not be launched again (it failed, or is
        skipped)."""
        if case not in self._to_come:
            return
        self._to_come[case] = 0 if over else max(0, self._to_come[case] - 1)
        if seconds > 0:
            self._times[case].append(seconds)
        self.left_s = self._left()

    def of(self, case: str) -> float | None:
        """Seconds that the next launch of a case will take; None before anything is known."""
        times = self._times.get(case, [])
        if len(times) > 1:
            return statistics.median(times[1:])
        if times:
            return times[0] * self._later_by_first()
        firsts = [known[0] for known in self._times.values() if known]
        return statistics.median(firsts) if firsts else None

    def _later_by_first(self) -> float:
        ratios = [
            statistics.median(times[1:]) / times[0]
            for times in self._times.values()
            if len(times) > 1
        ]
        return statistics.median(ratios) if ratios else 1.0

    def _left(self) -> float | None:
        firsts = [known[0] for known in self._times.values() if known]
        if not firsts:
            return None
        later, first, total = self._later_by_first(), statistics.median(firsts), 0.0
        for case, count in self._to_come.items():
            times = self._times[case]
            if count and not times:
                total += first * (1 + (count - 1) * later)
            elif count:
                total += count * (
                    statistics.median(times[1:]) if len(times) > 1 else times[0] * later
                )
        return total


def where(standings: Sequence[RankStatus]) -> list[str]:
    """Phase, steps and samples per second of running ranks: of the rank that is behind, and of all
    together."""
    if not standings:
        return ["starting ranks"]
    last = min(standings, key=lambda one: (_ORDER[one.phase], one.done))
    words = [f"{last.phase} {last.done}/{last.steps}" if last.steps else last.phase]
    samples, elapsed = (
        sum(one.samples for one in standings),
        max(one.elapsed_s for one in standings),
    )
    if last.phase == "timed steps" and samples and elapsed > 0:
        words.append(f"{samples / elapsed:,.0f} img/s")
    return words


def time_left(seconds: float | None) -> list[str]:
    """ "about 40 s left"; nothing where that is not known."""
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
    return cut_middle(plain(name), width - len(tail)) + tail


def _tail(words: Sequence[str]) -> str:
    return f": {', '.join(words)}" if words else ""


class StatusLine:
    """A line below the one that the cursor is in, rewritten in place; the cursor stays where it is.

    `write` writes and flushes. While the line is there nobody else may write.
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
