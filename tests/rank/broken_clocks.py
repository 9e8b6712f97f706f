"""Factories of models that break a clock of their rank, as a user's code may."""

import math
import sys
import time
from collections.abc import Callable

from torch import nn

from tests.tiny_models import tiny

STEP_S = 0.003
"""A step takes so long, and with it the window longer than the kernel's clock is off."""

_real = time.monotonic


def nan_in_time() -> nn.Module:
    """`time.monotonic` is never a number again."""
    time.monotonic = lambda: math.nan
    return tiny()


def nan_everywhere() -> nn.Module:
    """As `nan_in_time`, wherever a module has the clock by name: that is how freezegun does it."""
    return _with_clock(lambda: math.nan)


def backwards() -> nn.Module:
    """The clock runs backwards from now on."""
    begin_s = _real()
    return _with_clock(lambda: begin_s - (_real() - begin_s))


def slowed() -> nn.Module:
    """From now on the clock counts one second in eight."""
    begin_s = _real()
    return _with_clock(lambda: begin_s + (_real() - begin_s) / 8)


def hurried() -> nn.Module:
    """From now on the clock counts a thousand seconds in one."""
    begin_s = _real()
    return _with_clock(lambda: begin_s + (_real() - begin_s) * 1000)


def _with_clock(clock: Callable[[], float]) -> nn.Module:
    for module in list(sys.modules.values()):
        if getattr(module, "monotonic", None) is _real:
            module.monotonic = clock  # type: ignore[attr-defined] # looked for just now
    model = tiny()
    model.register_forward_pre_hook(lambda *_: time.sleep(STEP_S))
    return model
