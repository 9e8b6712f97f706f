"""Whose fault a hang is: the first culprit among ranks of which most only wait for it. Pure; looks
at nothing itself.

A rank that waits in a collective waits for its peers. So the culprit is, in this order: a stopped
rank; a rank that is not in a collective while others are, the least advanced of them; a rank that
has reported and gone while the others wait for it; where all wait, the odd one out, and of two the
one ahead, which is how leaving out a collective looks.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.rank_status import RANK_PHASES, RankStatus

_WAITING = re.compile(
    r"/torch/(distributed|nn/parallel|autograd)/"  # a backward pass ends with the exchange of gradients
    r"|/horovod/"
    r"|/rank/(pipeline/transfer|group)\.py"
)
_INNERMOST = re.compile(r"^Current thread [^\n]*\n\s+File \"([^\"]+)\"", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one rank when the time is over. `stacks` are those of its threads, as
    faulthandler says it."""

    number: int
    standing: RankStatus
    stacks: str = ""
    stopped: bool = False
    reported: bool = False

    @property
    def waiting(self) -> bool:
        """Whether its main thread is inside an operation of several ranks."""
        innermost = _INNERMOST.findall(self.stacks)
        return bool(innermost and _WAITING.search(innermost[-1]))

    @property
    def place(self) -> tuple[int, int]:
        """How far it has come: its phase's number, steps done in it."""
        return list(RANK_PHASES).index(self.standing.phase), self.standing.done


def first_culprit(ranks: Sequence[Seen]) -> tuple[Seen, str]:
    """The first culprit among all ranks of a launch that hangs, and how it is told from the
    others."""
    here = [rank for rank in ranks if not rank.reported]
    if stopped := [rank for rank in here if rank.stopped]:
        return min(stopped, key=lambda rank: rank.place), "was stopped by a signal"
    if busy := [rank for rank in here if not rank.waiting]:
        others = "while the others wait for it" if len(busy) < len(here) else ""
        return min(busy, key=lambda rank: rank.place), f"is in no collective {others}".rstrip()
    if gone := [rank for rank in ranks if rank.reported]:
        return gone[0], "has reported while the others wait for it in a collective"
    at = Counter(rank.place for rank in here)
    odd = min(here, key=lambda rank: (at[rank.place], tuple(-step for step in rank.place)))
    which = "another collective than" if len(at) > 1 else "a collective like"
    return odd, f"waits in {which} the others"
