"""Continuing an interrupted session: a journal of its launches, and --dnn-resume, which runs what
is missing.

The journal lies in pytest-benchmark's storage folder. It is removed when the session is complete
and saved; one that an earlier session left is set aside, unless it is to be continued. Sessions
under pytest-xdist keep none.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.session import rounds

if TYPE_CHECKING:
    from pytest_dnnbench.controller.case_run import CaseRun
    from pytest_dnnbench.results.records.journal_file import Head, Journal
    from pytest_dnnbench.session.resources import Resources

NAME = "dnnbench-journal.jsonl"

NOT_MEASURED = {"resume", "progress", "report", "timeout", "lease_timeout", "download", "parallel"}
NOT_MEASURED |= {
    "baseline",
    "compare_across",
    "require_baseline",
    "limits",
    "confirm",
    "false_alarms",
    "accept",
}
NOT_MEASURED |= {"effect"}
"""Settings that change nothing in what is measured: they may differ when a session is continued.
`effect` shows in the launches that were planned for it, `parallel` only under -n, where nothing is
continued."""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuses what cannot be done before xdist starts its workers."""
    from pytest_dnnbench import plugin

    distributed = session.config.getoption("dist", "no") != "no"
    if distributed and session.config.stash[plugin.SETTINGS].resume:
        raise pytest.UsageError(
            "--dnn-resume continues sessions without -n only: leave one of them out"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Opens the journal of a session that times cases. Raises UsageError where it cannot be
    continued."""
    from pytest_dnnbench import plugin

    config = session.config
    wanted = config.stash[plugin.SETTINGS].resume
    folder = _folder(config.getoption("benchmark_storage"))
    if folder is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    if not rounds.measured(session) or not plugin.timing(config):
        return
    shop = plugin.workshop(config)
    head = _head(shop, [item.nodeid for item in rounds.measured(session)])
    try:
        journal = open_journal(folder, head, wanted, lambda line: plugin.announce(config, line))
    except DataError as error:
        raise pytest.UsageError(str(error)) from None
    if journal is not None:
        shop.keeper = keeper = Keeper(journal)
        config.pluginmanager.register(keeper, "dnnbench_keeper")


def open_journal(
    folder: Path, head: Head, wanted: bool, announce: Callable[[str], None]
) -> Journal | None:
    """The journal of a session: continued or new; None where another session holds it or the folder
    is read-only.

    Raises DataError when it is to be continued and is damaged, or belongs to other cases, options
    or machines.
    """
    from pytest_dnnbench.results.records.journal_file import Journal

    path = folder / NAME
    try:
        if not wanted and path.exists() and path.stat().st_size:
            _set_aside(path, announce)
        journal = Journal(path)
    except BlockingIOError:
        announce(f"dnnbench: no journal of this session: another one is writing {path}")
        return None
    except OSError as error:
        announce(f"dnnbench: no journal of this session: {error}")
        return None
    if not wanted or journal.head is None:
        if wanted:
            announce(
                f"dnnbench: nothing to continue in {path}: the session starts from the beginning"
            )
        journal.begin(head)
        return journal
    try:
        if unlike := _differences(journal.head, head):
            raise DataError(
                f"--dnn-resume: the session in {path} was another one: {'; '.join(unlike)}."
                " Make them alike, or run without --dnn-resume, which sets the journal aside"
            )
    except DataError:
        journal.close()
        raise
    journal.go_on()
    cut_off = "; one that was cut off is measured again" if journal.cut_off else ""
    announce(f"dnnbench: {len(journal.kept)} launches are taken from {path}{cut_off}")
    return journal


class Keeper:
    """Keeps the launches of a session, and gives back those of the one that it continues."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.interrupted = False
        self.trouble: str | None = None

    def restore(self, item: str, run: CaseRun) -> None:
        """Gives a case the launches that it has in the journal, and with them its plan and
        proof."""
        from dataclasses import replace

        import msgspec

        from pytest_dnnbench.results.records.measurement import Launch
        from pytest_dnnbench.results.records.schema import Conditions

        kept = [one for one in self.journal.kept if one.item == item]
        if not kept:
            return
        asked = _plain(asdict(run.request.case))
        if kept[0].case != asked:
            unlike = [name for name in asked if asked[name] != kept[0].case.get(name)]
            raise DataError(
                f"--dnn-resume: {item} measured another case when it was interrupted ({', '.join(unlike)}):"
                " run without --dnn-resume"
            )
        run.request = replace(run.request, plan=kept[0].plan)
        run.correctness = kept[0].correctness
        run.launches += [
            Launch(one.reports, msgspec.convert(one.conditions, Conditions)) for one in kept
        ]

    def keep(self, item: str, run: CaseRun) -> None:
        """Adds the newest launch of a case. A disk that is full ends the journal, not the
        session."""
        if self.trouble:
            return
        import msgspec

        from pytest_dnnbench.results.records.journal_file import Kept

        launch = run.launches[-1]
        case, conditions = asdict(run.request.case), msgspec.to_builtins(launch.conditions)
        try:
            self.journal.keep(
                Kept(item, case, run.request.plan, run.correctness, launch.reports, conditions)
            )
        except OSError as error:
            self.trouble = f"from {item} on nothing could be written to it: {error}"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Removes the journal, but only of a session that ran to its end.

        By now pytest-benchmark has saved: it does so in a wrapper, ahead of every plain
        implementation.
        """
        complete = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if complete and not session.shouldstop and not session.shouldfail:
            self.journal.discard()
        else:
            self.journal.close()
            self.interrupted = True

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Says how to continue."""
        if self.trouble:
            terminalreporter.write_line(
                f"dnnbench: {self.journal.path} is not complete: {self.trouble}", yellow=True
            )
        if self.interrupted:
            terminalreporter.write_line(
                f"dnnbench: not all cases ran; what was measured is in {self.journal.path}: continue with --dnn-resume"
            )


def _folder(storage: str) -> Path | None:
    """pytest-benchmark's storage folder; None where it stores elsewhere."""
    kind, separator, rest = storage.partition("://")
    return (
        Path(rest if separator else storage).absolute() if not separator or kind == "file" else None
    )


def _head(shop: Resources, cases: list[str]) -> Head:
    from pytest_dnnbench.results.records.journal_file import Head

    machine = shop.machine
    packages = {"pytest-dnnbench", "torch", "torchvision", "numpy"}
    packages |= {
        name
        for spec in shop.catalog.frameworks.values()
        if not spec.missing()
        for name in spec.requires
    }
    environment = {
        "hostname": platform.node(),
        "python": platform.python_version(),
        "cpu": machine.cpu,
        "cores": machine.cores,
        "device": machine.kind,
        "gpus": [gpu.uuid for gpu in machine.gpus],
        "driver": machine.driver,
        **{name: _version(name) for name in sorted(packages)},
    }
    options = {
        name: value for name, value in asdict(shop.settings).items() if name not in NOT_MEASURED
    }
    return Head(cases, _plain(options), _plain(environment))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it is after its way through JSON."""
    return dict(json.loads(json.dumps(value)))


def _differences(then: Head, now: Head) -> list[str]:
    found = [
        f"{name}: {before.get(name)} then, {after.get(name)} now"
        for before, after in ((then.options, now.options), (then.environment, now.environment))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    for cases, when in (
        (set(then.cases) - set(now.cases), "then"),
        (set(now.cases) - set(then.cases), "now"),
    ):
        if cases:
            more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
            found.append(f"only {when}: {min(cases)}{more}")
    return found


def _set_aside(path: Path, announce: Callable[[str], None]) -> None:
    """Moves the journal of an interrupted session away, unless that session still runs."""
    import fcntl

    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside = path.with_name("dnnbench-journal.previous.jsonl")
        os.replace(path, aside)
    announce(
        f"dnnbench: the journal of an interrupted session is now {aside} (--dnn-resume would have continued it)"
    )
