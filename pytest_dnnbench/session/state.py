"""What a pytest session keeps for our parts of it: every stash key, and the questions that several
parts ask of the session. A leaf of session/: imports none of the parts.

A *part* is an object with pytest hooks that does one thing for the session (plugin.PARTS). There is
at most one part of a type, and `part(config, Type)` gives it to those that need it.
"""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import pytest

from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.engines import EngineFactory
from pytest_dnnbench.harmless import one_line, refusal
from pytest_dnnbench.session.settings import Settings

SETTINGS = pytest.StashKey[Settings]()
CATALOG = pytest.StashKey[Catalog]()
ENGINES = pytest.StashKey[Mapping[str, EngineFactory]]()
"""The engines that other packages add."""
PARTS = pytest.StashKey[dict[type, object]]()
REFUSED = pytest.StashKey[pytest.UsageError]()
"""Why no case of the session can be, noticed while pytest collects."""
CHOSEN = pytest.StashKey[dict[object, frozenset[str]]]()
"""Of each test function: its parameters that the session's options decide."""
EARLY_ROUND = pytest.StashKey[int]()
"""Of an item that runs in an early round: the number of that round, from 1."""
MEASURED = "measured; reported in the last round"
"""The reason for which a test is left after its launch in an early round."""
EARLY_FAILURE = pytest.StashKey[list[pytest.TestReport]]()
"""Of an item that failed in an early round: its reports."""
ELSEWHERE = pytest.StashKey[bool]()
"""Of an item that another xdist worker is to run."""

_FLAG = re.compile(r"--(dnn-)?(?P<name>[a-z][a-z-]*[a-z])")
"""An option of ours at the begin of a message."""

Part = TypeVar("Part")


def settings(config: pytest.Config) -> Settings:
    """The options in force."""
    return config.stash[SETTINGS]


def has_options(config: pytest.Config) -> bool:
    """Whether the command line has any option of ours."""
    options = vars(config.option).items()
    return any(value is not None for name, value in options if name.startswith("dnn_"))


def add_part(config: pytest.Config, new_part: object) -> None:
    """Registers a part and its hooks."""
    config.stash.setdefault(PARTS, {})[type(new_part)] = new_part
    config.pluginmanager.register(new_part, f"dnnbench-{type(new_part).__name__}")


def keep(config: pytest.Config, shared: object) -> None:
    """Keeps an object without hooks for the other parts, as a part."""
    config.stash.setdefault(PARTS, {})[type(shared)] = shared


def part(config: pytest.Config, kind: type[Part]) -> Part:
    """The session's part of that type, which must be there."""
    return cast(Part, config.stash[PARTS][kind])


def part_if_any(config: pytest.Config, kind: type[Part]) -> Part | None:
    """The session's part of that type; None where there is none."""
    return cast("Part | None", config.stash.get(PARTS, {}).get(kind))


def is_xdist_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def xdist_worker_number(worker_id: str) -> int:
    """3 of "gw3"."""
    return int(worker_id.removeprefix("gw"))


def is_case(item: object) -> bool:
    """Whether an item measures something."""
    return "dnnbench" in getattr(item, "fixturenames", ())


def needs_ranks(item: object) -> bool:
    """Whether an item starts ranks."""
    return bool({"dnnbench", "process_group"} & set(getattr(item, "fixturenames", ())))


def parametrised(mark: pytest.Mark) -> list[str]:
    """The parameters of a `parametrize` mark, whose names stand in a list or in one text."""
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]


def cases(session: pytest.Session) -> list[pytest.Item]:
    """All items that measure something, those of other xdist workers too."""
    return [item for item in session.items if is_case(item)]


def cases_here(session: pytest.Session) -> list[pytest.Item]:
    """The cases that this process runs."""
    return [item for item in cases(session) if not item.stash.get(ELSEWHERE, False)]


def refused(error: Exception, config: pytest.Config) -> pytest.UsageError:
    """What pytest shows as one line, without a traceback. It names an option by its key where it
    stands in the ini file."""
    message = refusal(error)
    flag = _FLAG.match(message)
    key = f"dnn_{flag['name'].replace('-', '_')}" if flag else ""
    if flag and _is_in_the_ini_file(key, config):
        message = f"{key} in the ini file{message[flag.end() :]}"
    return pytest.UsageError(message)


def _is_in_the_ini_file(key: str, config: pytest.Config) -> bool:
    """Whether an option has its value from there, and not from the command line."""
    if config.getoption(key, None) is not None:
        return False
    try:
        return config.getini(key) not in (None, "", [])
    except ValueError:  # It is no option of ours.
        return False


def announce(config: pytest.Config, line: str) -> None:
    """Writes a line past the capture of a running test's output; an xdist worker has no
    terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(one_line(line))
