"""Starting a process although the kernel refuses it for a moment: a session of hours does not end
for one fork that failed. A leaf: imports nothing of ours. Not here: which processes there are, and
what becomes of a start that goes on to fail.
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

Started = TypeVar("Started")

PASSING = frozenset((errno.EAGAIN, errno.EFAULT, errno.EINTR, errno.ENOMEM, errno.ETXTBSY))
"""What fork and exec answer for want of something that may be there again at once: processes,
memory, a program that another process has open for writing. Some kernels of virtual
machines answer EFAULT to a right exec."""

PAUSES_S = (0.02, 0.2, 2.0)


def started(start: Callable[[], Started]) -> Started:
    """What `start` returns, which forks or executes a program: a Popen, the end of a `run`, the
    process id of a fork. It is called again after each of PAUSES_S while its error may pass.
    Raises OSError: any other, and that of the last call."""
    for pause_s in PAUSES_S:
        try:
            return start()
        except OSError as error:
            if error.errno not in PASSING:
                raise
        time.sleep(pause_s)
    return start()
