"""Continues an interrupted session: a journal of its launches, and --dnn-resume, which runs what is
missing.

The journal lies in pytest-benchmark's storage folder. It is removed when the session is complete
and saved; a journal that an earlier session left is set aside, unless that session is to be
continued. Sessions under pytest-xdist keep none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.completeness import Completion
from pytest_dnnbench.session.journal_head import head_differences, journal_head
from pytest_dnnbench.session.journaled_launches import KeptLaunches
from pytest_dnnbench.session.resources import resources
from pytest_dnnbench.session.saving import Saving

if TYPE_CHECKING:
    from pytest_dnnbench.results.records.journal_file import Journal, JournalHead

NAME = "dnnbench-journal.jsonl"


class Journaling:
    """Opens, keeps and removes the journal of a session that times cases."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._kept: KeptLaunches | None = None
        self._left_behind = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Refuses what cannot be done before pytest-xdist starts its workers."""
        distributed = self._config.getoption("dist", "no") != "no"
        if distributed and state.settings(self._config).resume:
            raise pytest.UsageError(
                "--dnn-resume continues sessions without -n only: leave one of the two out"
            )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Opens the journal. Raises pytest.UsageError where the session cannot be continued."""
        config, cases = self._config, state.cases_here(session)
        folder = benchmark_file.storage_root(config)
        if folder is None or state.is_xdist_worker(config) or config.option.collectonly:
            return
        if not cases or not benchmark_file.is_timed(config):
            return
        shared = resources(config)
        head = journal_head(shared, [item.nodeid for item in cases])
        resume = state.settings(config).resume
        try:
            journal = open_journal(folder, head, resume, lambda line: state.announce(config, line))
        except DataError as error:
            raise state.refused(error, self._config) from None
        if journal is not None:
            self._kept = shared.keeper = KeptLaunches(journal)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Removes the journal, but only of a session in which every case ran and that is saved, or
        in which nothing was measured.

        By now pytest-benchmark has saved: it does so in a wrapper, ahead of every plain
        implementation.
        """
        if self._kept is None:
            return
        complete = state.part(self._config, Completion).is_complete(session, exitstatus)
        saved = not state.part(self._config, Saving).failure
        is_finished = complete and saved and not session.shouldstop and not session.shouldfail
        if is_finished or self._kept.is_empty:
            self._kept.journal.discard()
            return
        self._kept.journal.close()
        self._left_behind = "not all cases ran" if not complete else "the results are not saved"

    def summary(self) -> list[tuple[str, str]]:
        """How to continue."""
        if self._kept is None:
            return []
        path, lines = self._kept.journal.path, list[tuple[str, str]]()
        if self._kept.trouble:
            lines.append((f"dnnbench: {path} is not complete: {self._kept.trouble}", "yellow"))
        if self._left_behind:
            text = f"{self._left_behind}; what was measured is in {path}"
            lines.append((f"dnnbench: {text}: continue with --dnn-resume", ""))
        return lines


def open_journal(
    folder: Path, head: JournalHead, resume: bool, announce: Callable[[str], None]
) -> Journal | None:
    """The journal of a session: continued or new; None where another session holds it or the folder
    is read-only.

    Raises DataError when it is to be continued and is damaged, or belongs to other cases, options
    or machines.
    """
    from pytest_dnnbench.results.records.journal_file import Journal

    path = folder / NAME
    try:
        if not resume and path.exists() and path.stat().st_size:
            _set_aside(path, announce)
        journal = Journal(path)
        if not resume or journal.head is None:
            journal.begin(head)
            if resume:
                announce(f"dnnbench: nothing to continue in {path}: the session starts anew")
            return journal
    except BlockingIOError:
        announce(f"dnnbench: no journal of this session: another one is writing {path}")
        return None
    except OSError as error:
        announce(f"dnnbench: no journal of this session: {error}")
        return None
    try:
        if unlike := head_differences(journal.head, head):
            raise DataError(
                f"--dnn-resume: the session in {path} was another one: {'; '.join(unlike)}."
                " Make them alike, or run without --dnn-resume, which sets the journal aside"
            )
    except DataError:
        journal.close()
        raise
    journal.go_on()
    cut_off = "; one that was cut off is measured again" if journal.cut_off else ""
    announce(f"dnnbench: {counted(len(journal.kept), 'launch')} taken from {path}{cut_off}")
    return journal


def _set_aside(path: Path, announce: Callable[[str], None]) -> None:
    """Moves the journal of an interrupted session away, unless that session still runs."""
    import fcntl

    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside = path.with_name("dnnbench-journal.previous.jsonl")
        os.replace(path, aside)
    announce(
        f"dnnbench: the journal of an interrupted session is now {aside}"
        " (--dnn-resume would have continued it)"
    )
