"""The false-alarm rate: of a session, and of each of the tests that it makes.

Not here: how many tests a session makes (verdicts/number_of_tests.py).
"""

import math

FALSE_ALARMS = 0.01
"""The false-alarm rate of a session whose user sets none."""

SCREEN_ALPHA = 0.05
"""A case that may have become worse is measured again when chance alone would show as large a
change in fewer tests than this share."""


def alpha_per_test(session_alpha: float, tests: int) -> float:
    """The false-alarm rate of each of a session's tests (cases x gated metrics) that keeps the
    whole session's.

    Sidak's correction: exact for independent tests, on the safe side for tests that move together.
    """
    return -math.expm1(math.log1p(-session_alpha) / max(tests, 1))
