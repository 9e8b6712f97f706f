"""The board: one page of shared memory per rank, on which the rank says where it is. No torch here.

    rank ──(stores into a page of memory that both have mapped)──> board <──(looks, when it likes)── controller

A page and not a message, for the sake of what is measured: saying a step costs the rank well under
a microsecond, no system call and no lock; nobody is woken by it; nothing can fill up or block. And
the page outlives the rank, so that the end of a rank, however sudden, is told with the phase and
the step it came in.

A look may fall between two stores and see the count of one step beside the samples of the step
before; it is shown to people and never recorded. After a rank's end it is exact.
"""

import mmap
import os
import struct
import time
from dataclasses import dataclass

RANK_PHASES = {
    "start": "at its start",
    "import": "in import",
    "group": "in process-group start",
    "plan": "in planning",
    "build": "in build",
    "proof": "in the proof",
    "warm-up": "during warm-up",
    "timed steps": "during the timed steps",
    "report": "in its report",
    "teardown": "in teardown",
    "yardstick": "in the machine's yardstick",
    "program": "",
}
"""Each phase of a rank, in order, and how a failure's message says it. "program" is a function
given to `Ranks.run`: all there is, so nothing to say."""

_NAMES = tuple(RANK_PHASES)
_LAYOUT = struct.Struct("<qqqqdd")
"""Phase, steps done, steps in all, samples, when the phase began, when the last step was done.
Eight bytes each, so that each is stored whole."""


@dataclass(frozen=True, slots=True)
class RankStatus:
    """Where a rank is: its phase; steps done of the steps in this phase, counted over the whole
    job; the samples that this rank completed in them; seconds from the phase's begin to the last
    step's end."""

    phase: str
    done: int = 0
    steps: int = 0
    samples: int = 0
    elapsed_s: float = 0.0

    def describe(self) -> str:
        """For a failure's message: "during the timed steps (3 of 10 done)"; empty where there is
        nothing to say."""
        return RANK_PHASES[self.phase] + (
            f" ({self.done} of {self.steps} done)" if self.steps else ""
        )


class StatusPage:
    """One rank's board. The controller makes it, the rank opens its descriptor: both then see the
    same page."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._began_s = time.monotonic()
        self._phase = self._steps = 0

    @classmethod
    def make(cls) -> tuple["StatusPage", int]:
        """A fresh board and the descriptor to hand to its rank; the caller closes it."""
        descriptor = os.memfd_create("dnnbench-board")
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            return cls(descriptor), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def enter(self, phase: str, steps: int = 0) -> None:
        """A phase begins, of so many steps. Raises ValueError for one that RANK_PHASES does not
        name."""
        self._phase, self._steps, self._began_s = _NAMES.index(phase), steps, time.monotonic()
        _LAYOUT.pack_into(self._page, 0, self._phase, 0, steps, 0, self._began_s, self._began_s)

    def step(self, done: int, samples: int) -> None:
        """So many steps of this phase are done, with so many samples on this rank."""
        _LAYOUT.pack_into(
            self._page, 0, self._phase, done, self._steps, samples, self._began_s, time.monotonic()
        )

    def look(self) -> RankStatus:
        """Where the rank is now."""
        phase, done, steps, samples, began_s, stepped_s = _LAYOUT.unpack_from(self._page)
        return RankStatus(_NAMES[phase], done, steps, samples, max(0.0, stepped_s - began_s))

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()
