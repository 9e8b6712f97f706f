"""What a rank's Python has beside a plain one's is a fact of the environment."""

import subprocess
import sys
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.rank.interpreter import peculiarities
from pytest_dnnbench.rank.rank_facts import malloc_settings

ASK = "from pytest_dnnbench.rank.interpreter import peculiarities; print(peculiarities())"


class Tracer:
    """An object that is called as a function, as coverage's."""

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        """Nothing to do for a line."""


def each_call(frame: Any, event: str, argument: Any) -> None:
    """A profile function."""


@pytest.fixture
def plain() -> Any:
    """Takes away what watches the tests themselves, and what they leave."""
    trace, profile = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    yield
    tracemalloc.stop()
    sys.settrace(trace)
    sys.setprofile(profile)


@pytest.mark.usefixtures("plain")
def test_what_python_calls_for_every_line_is_named() -> None:
    """Coverage of subprocesses traced ranks, and no record said so."""
    before = peculiarities()
    assert "traced" not in before
    sys.settrace(Tracer())
    sys.setprofile(each_call)
    both = peculiarities()
    sys.setprofile(None)
    sys.settrace(None)
    assert f"traced by {__name__}.Tracer; profiled by {__name__}.each_call" in both
    assert peculiarities() == before


@pytest.mark.usefixtures("plain")
def test_memory_that_python_follows_is_named() -> None:
    tracemalloc.start(5)
    assert "tracemalloc of 5 frames" in peculiarities()


def test_a_tool_that_monitors_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has sys.monitoring from 3.12 on; before, what is asked of it stands in for it."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        stands_in = SimpleNamespace(get_tool={4: "a_coverage"}.get)
        monkeypatch.setattr(sys, "monitoring", stands_in, raising=False)
        assert "monitored by a_coverage" in peculiarities()
        return
    monitoring.use_tool_id(4, "a_coverage")
    try:
        assert "monitored by a_coverage" in peculiarities()
    finally:
        monitoring.free_tool_id(4)


def test_how_python_was_started_is_named() -> None:
    variables = {"PYTHONMALLOC": "malloc", "PYTHONDEVMODE": "1", "PYTHONOPTIMIZE": "2"}
    command = [sys.executable, "-c", ASK]
    asked = [
        subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout
        for given in ({}, variables)
    ]
    plain, changed = (set(text.strip().split("; ")) for text in asked)
    assert changed - plain == {"development mode", "PYTHONMALLOC=malloc", "optimised (-OO)"}


def test_the_settings_of_every_allocator_are_recorded() -> None:
    variables = {
        "MIMALLOC_LARGE_OS_PAGES": "1",
        "LD_PRELOAD": "libjemalloc.so.2",
        "MALLOC_CONF": "dirty_decay_ms:-1",
        "MALLOC_ARENA_MAX": "2",
        "PATH": "/bin",
    }
    assert malloc_settings(variables) == (
        "LD_PRELOAD=libjemalloc.so.2 MALLOC_ARENA_MAX=2 MALLOC_CONF=dirty_decay_ms:-1"
        " MIMALLOC_LARGE_OS_PAGES=1"
    )
