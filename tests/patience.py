"""How long a test may wait, measured at the moment when it matters: a fixed number is too short on
a busy machine and too long on any other."""

import time

from pytest_dnnbench.controller.ranks import Ranks

HANG_S = 300.0
"""What nothing but a hang takes, on any machine."""


def patience_of(ranks: Ranks) -> float:
    """A time-out for ranks that hang on purpose: long enough that, on this machine and at this
    moment, they get as far as the hang."""
    # Here, because every test imports this module, and most can do without the seconds of torch.
    from tests.rank import programs

    ranks.run(programs.sum_of_ranks)  # the first launch may start servers
    begun = time.monotonic()
    ranks.run(programs.sum_of_ranks)
    return round(2.0 + 4 * (time.monotonic() - begun), 1)
