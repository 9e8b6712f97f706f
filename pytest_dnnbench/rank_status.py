"""The status page: one page of shared memory per rank, on which the rank reports its phase and
step. No torch here.

    rank ──(stores into a page that both have mapped)──> status page <──(looks)── controller

It is a page and not a message so as not to disturb the measurement: a report costs the rank well
under a microsecond, no system call and no lock; it wakes nobody; it cannot fill up or block. The
page also outlives the rank: when a rank dies, however suddenly, the failure's message has the phase
and the step in which it died.

A look may come between two stores, and see the count of one step beside the samples of the step
before. People see it, and no record keeps it. After the end of a rank a look is exact.
"""

import mmap
import os
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic, sleep

RANK_PHASES = {
    "start": "at its start",
    "import": "in import",
    "device": "in the start of its device",
    "group": "in process-group start",
    "plan": "in planning",
    "prediction": "in the prediction of its step",
    "build": "in build",
    "data": "in the making of its minibatches",
    "proof": "in the proof",
    "warm-up": "during warm-up",
    "timed steps": "during the timed steps",
    "report": "in its report",
    "breakdown": "during the profiled steps",
    "teardown": "in teardown",
    "yardstick": "in the machine's yardstick",
    "program": "",
}
"""The phases of a rank, in order, each with its words in a failure's message. "program" is a
function given to `Ranks.run`: it is all that the ranks do, so it needs no words."""

_NAMES = tuple(RANK_PHASES)
_LAYOUT = struct.Struct("<qqqqdd")
"""The rank's phase, steps done, steps in all, samples, begin of the phase, end of the last step.
Each has eight bytes, so that each is stored whole."""

STAMP_S = 0.01
"""How far the kernel's times of a file are off at most: a tick, at its lowest rate of 100 Hz."""

_NOTE_S, _MOST_NOTES = 0.0005, 2000
"""How often, and how many times, a rank looks whether the kernel's clock has moved."""


@dataclass(frozen=True, slots=True)
class RankStatus:
    """A rank's phase, and its progress in it.

    done, steps    steps done, and all steps of this phase, counted over the whole job
    samples        samples that this rank completed in them
    elapsed_s      from the begin of the phase to the end of the last step
    """

    phase: str
    done: int = 0
    steps: int = 0
    samples: int = 0
    elapsed_s: float = 0.0

    def describe(self) -> str:
        """The words of a failure's message, such as "during the timed steps (3 of 10 done)"; may be
        empty."""
        return RANK_PHASES[self.phase] + (
            f" ({self.done} of {self.steps} done)" if self.steps else ""
        )


class StatusPage:
    """One rank's page. The controller makes it, the rank opens its descriptor: then both see the
    same memory."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._descriptor = os.dup(descriptor)
        self._began_s = monotonic()
        self._phase = self._steps = 0

    @classmethod
    def make(cls) -> tuple["StatusPage", int]:
        """A new page, and the descriptor for its rank, which the caller closes."""
        descriptor = os.memfd_create("dnnbench-status")
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            return cls(descriptor), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def enter(self, phase: str, steps: int = 0) -> None:
        """Reports that a phase begins, with its number of steps. Raises ValueError for one that is
        not in RANK_PHASES."""
        self._phase, self._steps, self._began_s = _NAMES.index(phase), steps, monotonic()
        _LAYOUT.pack_into(self._page, 0, self._phase, 0, steps, 0, self._began_s, self._began_s)

    def step(self, done: int, samples: int) -> None:
        """Reports the number of steps done in this phase, and of samples completed on this rank."""
        _LAYOUT.pack_into(
            self._page, 0, self._phase, done, self._steps, samples, self._began_s, monotonic()
        )

    def timing_begins(self) -> None:
        """Lets the kernel note when the timed run begins; takes up to a tick."""
        # As times of the page's file: the kernel's own clock, which no code on the rank can
        # replace, and without a wake-up of the controller, which would disturb the run. Writing to
        # the page changes none of them. The kernel reads a coarse clock, which stands still from
        # tick to tick, and late ticks make it later still: a note that has just moved is fresh.
        with suppress(OSError):
            first_ns = self._noted_ns()
            for _ in range(_MOST_NOTES):
                sleep(_NOTE_S)
                if self._noted_ns() != first_ns:
                    return

    def _noted_ns(self) -> int:
        os.utime(self._descriptor)
        return os.fstat(self._descriptor).st_atime_ns

    def timing_ended(self) -> None:
        """Lets the kernel note when the timed window has closed."""
        with suppress(OSError):  # changes the mode to what it is, and with it `st_ctime` alone
            os.fchmod(self._descriptor, stat.S_IMODE(os.fstat(self._descriptor).st_mode))

    def timing_s(self) -> float:
        """The seconds between these two by the kernel's clock, to within a tick (STAMP_S); about 0
        when either did not come."""
        times = os.fstat(self._descriptor)
        return (times.st_ctime_ns - times.st_atime_ns) / 1e9

    def look(self) -> RankStatus:
        """The rank's phase and progress at this moment."""
        phase, done, steps, samples, began_s, stepped_s = _LAYOUT.unpack_from(self._page)
        # A rank that runs wild may write anything into its page.
        name = _NAMES[phase] if 0 <= phase < len(_NAMES) else "program"
        return RankStatus(name, done, steps, samples, max(0.0, stepped_s - began_s))

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()
        os.close(self._descriptor)
