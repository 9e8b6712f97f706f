"""Live progress: what runs now, how far it is, how long the session will still take.

    terminal             a status line, rewritten every ranks.PROGRESS_S at most while ranks run,
                         gone between launches
    pipe, file, CI log   a plain line per launch of an early round; in the last round pytest's own
                         line per case

The controller draws the line from the loop in which it waits for the ranks: no thread, no busy
waiting. Where there is no status line it is not even woken. Workers of pytest-xdist have no
terminal and are silent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from pytest_dnnbench.rank_status import RankStatus
from pytest_dnnbench.report.figures import amount
from pytest_dnnbench.report.progress import Pace, StatusLine, status, time_left, where
from pytest_dnnbench.session import state
from pytest_dnnbench.session.benchmark_file import is_timed
from pytest_dnnbench.session.resources import Resources, resources
from pytest_dnnbench.session.state import EARLY_ROUND


class ProgressDisplay:
    """Decides by --dnn-progress and the terminal what is shown, once the cases are there."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Registers the display, where there is one."""
        config = self._config
        writer = getattr(config.pluginmanager.get_plugin("terminalreporter"), "_tw", None)
        idle = config.option.collectonly or not any(map(state.needs_ranks, session.items))
        if writer is None or idle:
            return
        terminal, choice = Terminal(config, writer), state.settings(config).progress
        if shows(choice, terminal.rewrites, config.option.verbose):
            shared = resources(config)
            launches = shared.settings.rounds if is_timed(config) else 1
            live = LiveProgress(terminal, shared, state.cases_here(session), launches)
            shared.progress = live if terminal.rewrites else None
            state.add_part(config, live)


def shows(choice: str, rewrites: bool, verbosity: int) -> bool:
    """Whether there is a display: what --dnn-progress says; "auto" bows to -q, and a status line to
    -qq only."""
    return choice == "on" or (choice == "auto" and verbosity >= (-1 if rewrites else 0))


class Terminal:
    """pytest's terminal, written to from within a test: past the capture of output."""

    def __init__(self, config: pytest.Config, writer: Any) -> None:
        self._capture = config.pluginmanager.get_plugin("capturemanager")
        self._writer = writer
        self.rewrites = bool(writer._file.isatty()) and os.environ.get("TERM") not in ("dumb", None)
        self.line = StatusLine(self._write)

    @property
    def width(self) -> int:
        """Columns, as they are now."""
        with suppress(OSError, ValueError):
            return max(1, os.get_terminal_size(self._writer._file.fileno()).columns)
        return int(self._writer.fullwidth)

    def draw(self, name: str, words: Sequence[str]) -> None:
        """Rewrites the status line. A terminal that is gone is no reason to fail a measurement."""
        with suppress(OSError, ValueError), self._uncaptured():
            self.line.draw(status(name, words, self.width - 1))

    def erase(self) -> None:
        """Takes the status line away."""
        with suppress(OSError, ValueError), self._uncaptured():
            self.line.erase()

    def write_line(self, text: str) -> None:
        """A line of its own."""
        with self._uncaptured():
            self._writer.line(text)
            self._writer.flush()

    def _uncaptured(self) -> Any:
        return self._capture.global_and_fixture_disabled() if self._capture else nullcontext()

    def _write(self, text: str) -> None:
        self._writer.write_raw(text, flush=True)


class LiveProgress:
    """The display of one session; it is what `Ranks` calls Progress."""

    def __init__(
        self, terminal: Terminal, shared: Resources, measured: Sequence[pytest.Item], launches: int
    ) -> None:
        self.terminal = terminal
        self._resources = shared
        self._launches = launches
        self._numbers = {item.nodeid: number for number, item in enumerate(measured, 1)}
        self._pace = Pace(list(self._numbers), self._launches)
        self._item: pytest.Item | None = None
        self._began_s = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Times a case's launch, and tells of it in an early round."""
        # What another plugin raises around a test is not of our doing.
        __tracebackhide__ = True
        before = self._launched(item)
        self._item, self._began_s = item, time.monotonic()
        failed = True
        try:
            result = yield
            failed = False
            return result
        except pytest.skip.Exception:
            failed = False
            raise
        except (KeyboardInterrupt, pytest.exit.Exception):
            failed = False
            self._note_cut_off(item)
            raise
        finally:
            self._item = None
            self._note(
                item, time.monotonic() - self._began_s, failed, self._launched(item) > before
            )

    def show(self, standings: Sequence[RankStatus]) -> None:
        """As ranks.RankDisplay.show."""
        if self._item is not None:
            words = [*self._launch(self._item), *where(standings), *time_left(self._left_s())]
            self.terminal.draw(self._item.name, words)

    def clear(self) -> None:
        """As ranks.RankDisplay.clear."""
        self.terminal.erase()

    def _note(self, item: pytest.Item, seconds: float, failed: bool, launched: bool) -> None:
        if item.nodeid not in self._numbers:
            return
        skipped = not launched and not failed
        self._pace.note(item.nodeid, 0.0 if skipped else seconds, over=failed or skipped)
        if not self.terminal.rewrites and item.stash.get(EARLY_ROUND, 0) and not skipped:
            words = [self._rate(item) if launched else "failed", *time_left(self._pace.left_s)]
            self.terminal.write_line(f"{self._place(item)}: {', '.join(words)}")

    def _note_cut_off(self, item: pytest.Item) -> None:
        """Tells of a case in which the session was stopped: nothing is wrong with it."""
        if item.nodeid in self._numbers and not self.terminal.rewrites:
            self.terminal.write_line(f"{self._place(item)}: cut off")

    def _place(self, item: pytest.Item) -> str:
        number = self._numbers[item.nodeid]
        return f"dnnbench: case {number} of {len(self._numbers)}, {item.name}"

    def _rate(self, item: pytest.Item) -> str:
        launch = self._resources.runs[item.nodeid].launches[-1]
        return amount(launch.throughput, f"{launch.reports[0].sample}/s")

    def _launch(self, item: pytest.Item) -> list[str]:
        if item.nodeid not in self._numbers or self._launches == 1:
            return []
        number = self._launched(item) + 1
        return [
            f"launch {number} of {self._launches}"
            if number <= self._launches
            else f"launch {number}"
        ]

    def _launched(self, item: pytest.Item) -> int:
        run = self._resources.runs.get(item.nodeid)
        return len(run.launches) if run else 0

    def _left_s(self) -> float | None:
        """What is left, less what the running launch has taken of its share."""
        assert self._item is not None
        left, share = self._pace.left_s, self._pace.of(self._item.nodeid)
        if left is None or share is None:
            return None
        return max(0.0, left - min(share, time.monotonic() - self._began_s))
