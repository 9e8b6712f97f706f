"""Every error that this package raises on purpose. Each message tells the cause, the offending
value and the fix.

    DnnbenchError
    ├── UsageError
    │   ├── DataError
    │   ├── ProfileError
    │   └── PlanError
    ├── RankFailure
    │   ├── RankRaised
    │   ├── RankOutOfMemory
    │   ├── RankCrashed
    │   ├── RankHung
    │   ├── RankUnreadable
    │   └── NodeLost
    ├── WrongResult
    ├── LaunchError
    └── BuildError

A leaf: imports nothing of ours.
"""

__all__ = [
    "BuildError",
    "DataError",
    "DnnbenchError",
    "LaunchError",
    "NodeLost",
    "PlanError",
    "ProfileError",
    "RankCrashed",
    "RankFailure",
    "RankHung",
    "RankOutOfMemory",
    "RankRaised",
    "RankUnreadable",
    "UsageError",
    "WrongResult",
]


class DnnbenchError(Exception):
    """Base of all errors of this package."""


class UsageError(DnnbenchError):
    """The user asked for something that is not possible; raised before anything starts. The
    message names the value and says what to write instead."""


class WorkloadRefused(UsageError):
    """A framework cannot train this workload, by its own rule. A case of a framework that the user
    did not name is skipped with the message."""


class DataError(UsageError):
    """A data file is missing, truncated or of another kind."""


class ProfileError(UsageError):
    """A profile cannot be read, or it describes another model, shape, precision or device."""


class PlanError(UsageError):
    """No plan meets the given limits, or a plan does not fit the number of ranks."""


class RankFailure(DnnbenchError):
    """A rank did not do its part.

    `rank` is the rank that is blamed; `output` the end of what it wrote to stdout and stderr;
    `rank_phase` its phase at the time, a key of rank_status.RANK_PHASES; `node` the node that it
    ran on, empty where the launch was on one machine.
    """

    def __init__(
        self, message: str, *, rank: int, output: str = "", rank_phase: str = "", node: str = ""
    ) -> None:
        super().__init__(message)
        self.rank = rank
        self.node = node
        self.output = output
        self.rank_phase = rank_phase


class RankRaised(RankFailure):
    """A rank raised an exception; the message holds its traceback."""


class RankOutOfMemory(RankFailure):
    """A rank could not allocate memory, of the host or of a device, or the kernel killed it because
    memory ran out."""


class RankCrashed(RankFailure):
    """A rank's process ended before it reported: by a signal, or with an exit status."""


class RankHung(RankFailure):
    """A rank did not report within the time-out; the message holds the stacks of its threads."""


class RankUnreadable(RankFailure):
    """What a rank sent back cannot be read: it is damaged, too large, of another type than asked
    for, a pickle that would call something it may not call, or one that takes too long."""


class NodeLost(RankFailure):
    """A node no longer answers: its agent or the engine's process for it has ended, or it has been
    silent for too long. `rank` is the first of the ranks that ran on it."""


class WrongResult(DnnbenchError):
    """What ranks computed is wrong, so the case is neither timed nor recorded. One of three things:
    a training or validation step deviates from its reference; ranks hold different weights; a loss
    is not finite.

    `step` is the first wrong step, where one is known. If several ranks raise this error, the one
    with the earliest step is blamed.
    """

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class LaunchError(DnnbenchError):
    """Ranks could not be started, or the machine slept while they were timed."""


class BuildError(DnnbenchError):
    """A library could not be built, or it does not load. The message names the step, the likely
    cause and the log."""
