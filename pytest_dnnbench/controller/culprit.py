"""The culprit of a hang: the one rank that the others wait for. Pure: decides from snapshots of the
ranks, reads nothing itself.

A rank inside a collective waits for its peers, so most ranks of a hang are not to blame. Blamed is
the first of these that exists:

    1. a rank that is stopped by a signal
    2. a rank outside any collective, of several the one that has come the least far
    3. a rank that has already reported, while the others wait inside a collective
    4. the rank whose position differs from the others'; of two, the one ahead, because skipping a
       collective puts a rank ahead. This one is a guess.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_dnnbench.rank_status import RANK_PHASES, RankStatus

WAITING_MODULES = (
    "pytest_dnnbench.rank.agreement",
    "pytest_dnnbench.rank.group",
    "pytest_dnnbench.rank.pipeline.transfer",
    "pytest_dnnbench.rank.pipeline.turns",
)
"""Modules of ours in which a rank waits for its peers. By name: the controller imports none."""

# torch.autograd: a backward pass of data-parallel ranks ends with the exchange of gradients.
# torch.cuda: ranks on GPUs wait for a collective's kernel where they synchronise the device.
WAITING_PACKAGES = (
    "torch.distributed",
    "torch.nn.parallel",
    "torch.autograd",
    "torch.cuda",
    "horovod",
)
"""Packages of others in which a rank waits for its peers."""

_WAITING = re.compile(
    "|".join(
        [rf"/{name.replace('.', '/')}/" for name in WAITING_PACKAGES]
        + [rf"/{name.replace('.', '/')}\.py$" for name in WAITING_MODULES]
    )
)
_INNERMOST = re.compile(r"^Current thread [^\n]*\n\s+File \"([^\"]+)\"", re.MULTILINE)
"""The file of the main thread's innermost frame, in a dump of faulthandler."""

_FRAME = re.compile(r"^ +File \"([^\"]+)\", line ", re.MULTILINE)
"""The file of a frame, in a traceback."""

_PHASE_NUMBERS = {phase: number for number, phase in enumerate(RANK_PHASES)}


@dataclass(frozen=True, slots=True)
class RankSnapshot:
    """One rank when the time is up. `stacks` are those of its threads, as faulthandler writes them;
    `stopped`: by a signal; `reported`: it has reported or ended."""

    number: int
    status: RankStatus
    stacks: str = ""
    stopped: bool = False
    reported: bool = False

    @property
    def in_collective(self) -> bool:
        """Whether its main thread is inside an operation of several ranks."""
        files = _INNERMOST.findall(self.stacks)
        return bool(files and waits_in(files[-1]))

    @property
    def position(self) -> tuple[int, int]:
        """How far it has come: the number of its phase, the steps done in it."""
        return _PHASE_NUMBERS[self.status.phase], self.status.done


def waits_in(file: str) -> bool:
    """Whether a rank whose innermost frame is in this file waits for its peers."""
    return _WAITING.search(file) is not None


def waited(traceback: str) -> bool:
    """Whether a rank raised where it waited for its peers, by the last frame of the traceback."""
    files = _FRAME.findall(traceback)
    return bool(files and waits_in(files[-1]))


def first_culprit(ranks: Sequence[RankSnapshot]) -> tuple[RankSnapshot, str]:
    """The culprit among all ranks of a launch that hangs, and the reason, which continues the
    sentence "rank N ..."."""
    running = [rank for rank in ranks if not rank.reported]
    if stopped := [rank for rank in running if rank.stopped]:
        return min(stopped, key=lambda rank: rank.position), "was stopped by a signal"
    if outside := [rank for rank in running if not rank.in_collective]:
        others = " while the others wait for it" if len(outside) < len(running) else ""
        return min(outside, key=lambda rank: rank.position), f"is in no collective{others}"
    if reported := [rank for rank in ranks if rank.reported]:
        return reported[0], "has reported while the others wait for it in a collective"
    at = Counter(rank.position for rank in running)

    def rarest_then_farthest(rank: RankSnapshot) -> tuple[int, tuple[int, ...]]:
        return at[rank.position], tuple(-part for part in rank.position)

    which = "another collective than" if len(at) > 1 else "a collective like"
    return min(running, key=rarest_then_farthest), f"waits in {which} the others"
