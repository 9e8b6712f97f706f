"""How a session is stopped by signals, without losing what it has measured.

    SIGINT (Ctrl-C), SIGTERM, SIGHUP   the first stops the session as Ctrl-C does: ranks are ended,
                                       the file is saved, the journal kept
    one while results are saved, and   are ignored, with a line that says why
      those within PATIENCE_S of it
      or of the first
    later ones                         stop whatever still runs

So it goes on to the end of the process, for pytest's own end takes its time too.

People press Ctrl-C twice, and a batch system sends SIGTERM to every process of a job at once: an
interrupt in the middle of saving would lose the file. Sessions that start no ranks are left alone.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType
from typing import Any

import pytest

from pytest_dnnbench.session import state

PATIENCE_S = 15.0
"""Ending ranks and saving take less (controller.ranks.EXIT_S is 10 s)."""

_MESSAGE = b"\ndnnbench: stopping; ranks are being ended and results saved\n"


class Interrupts:
    """Takes the signals from the start of the session to its end, where nobody else has."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._before: dict[signal.Signals, Any] = {}
        self._stopped = False
        self._patient_since_s = -math.inf
        self._terminals: list[int] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """The controller of pytest-xdist collects no tests: it takes the signals from the start."""
        if self._config.getoption("dist", "no") != "no":
            self._take()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Takes the signals of a session that will start ranks."""
        if any(map(state.needs_ranks, session.items)):
            self._take()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        """From here on results are saved, however long that takes: the next signal begins the
        patience."""
        self._patient_since_s = math.inf
        return (yield)

    def _take(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        unused = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
            signal.SIGHUP: signal.SIG_DFL,  # under nohup it is ignored, and stays so
        }
        for number, default in unused.items():
            before = signal.getsignal(number)
            earlier = getattr(before, "__self__", None)
            if before is default or (isinstance(earlier, Interrupts) and earlier.stopped):
                signal.signal(number, self._interrupt)
                self._before[number] = default

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped the session, or came while it ended."""
        return self._stopped

    def pytest_unconfigure(self) -> None:
        """Leaves the signals as they were. Those of a stopped session stay ours until the process
        has ended, or another session of it begins: an interrupt in between would give the process
        another status."""
        if self.stopped:
            atexit.register(self._ignore_all)
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ignore_all(self) -> None:
        """While Python ends, it has no handlers of its own any more."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        self._stopped = True
        if number == signal.SIGHUP:
            self._leave_terminal()
        self._patient_since_s = min(self._patient_since_s, now_s)
        if now_s - self._patient_since_s < PATIENCE_S:
            self._say()
            return
        self._patient_since_s = now_s
        name = signal.Signals(number).name
        raise KeyboardInterrupt(*([] if number == signal.SIGINT else [f"stopped by {name}"]))

    def _leave_terminal(self) -> None:
        """The terminal is gone: what is written to it now would be an error in the middle of
        saving."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nothing, descriptor)
        os.close(nothing)

    @staticmethod
    def _say() -> None:
        # A handler may run between any two instructions, so nothing that takes a lock is used.
        try:
            os.write(2, _MESSAGE)
        except OSError:
            return
