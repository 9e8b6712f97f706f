"""Every error that this package raises on purpose. Each message tells the cause, the offending
value and the fix.

DnnbenchError
├── UsageError              the user asked for something that cannot be: raised before anything starts
│   ├── DataError           a data file is missing, truncated or of another kind
│   ├── ProfileError        a profile cannot be read, or describes another model, shape or device
│   └── PlanError           no plan fits, or a plan does not fit the ranks
├── RankFailure             a rank did not do its part; names the rank and shows its output
│   ├── RankRaised          it raised an exception: its traceback is kept
│   ├── RankOutOfMemory     it could not allocate memory, or the kernel killed it for lack of it
│   ├── RankCrashed         it died: of a signal, or with a status, before it reported
│   └── RankHung            it did not report within the time-out: the stacks of its threads are kept
├── WrongResult             a training step differs from its reference: never timed, never recorded
├── LaunchError             ranks could not be started at all
└── BuildError              a library could not be built; names the step and the log
"""


class DnnbenchError(Exception):
    """Base of all errors of this package."""


class UsageError(DnnbenchError):
    """The request cannot be met as it stands; the message says which value and what to write
    instead."""


class DataError(UsageError):
    """A data file is missing, truncated or not what it should be."""


class ProfileError(UsageError):
    """A profile is malformed or belongs to another model, shape, precision or device."""


class PlanError(UsageError):
    """No plan exists under the given limits, or a plan does not fit the number of ranks."""


class RankFailure(DnnbenchError):
    """A rank did not do its part.

    `rank` is the first culprit; `output` holds the end of what it wrote to stdout and stderr;
    `phase` is the phase (of board.PHASES) that it was in.
    """

    def __init__(self, message: str, *, rank: int, output: str = "", phase: str = "") -> None:
        super().__init__(message)
        self.rank = rank
        self.output = output
        self.phase = phase


class RankRaised(RankFailure):
    """A rank raised an exception; the message carries its traceback."""


class RankOutOfMemory(RankFailure):
    """A rank could not allocate memory, of the host or of a device, or the kernel killed it for
    lack of it."""


class RankCrashed(RankFailure):
    """A rank died before it reported: of a signal or with an exit status."""


class RankHung(RankFailure):
    """A rank did not report within the time-out; the message carries the stacks of its threads."""


class WrongResult(DnnbenchError):
    """A training or validation step differs from its reference, ranks hold different weights, or a
    loss is not finite.

    `step` is the first step that is wrong, where one is known: among ranks, the first of them is
    the culprit.
    """

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class LaunchError(DnnbenchError):
    """Ranks could not be started."""


class BuildError(DnnbenchError):
    """A library could not be built or does not load; the message names the step, the likely cause
    and the log."""
