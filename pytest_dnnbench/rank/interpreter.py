"""What makes this Python slower or faster than a plain one: functions that it calls for every line,
debugging aids, and how it was built. Every step is issued from Python, so they are part of a time.

Not here: versions and libraries (rank_facts.py).
"""

import os
import sys
import sysconfig
import tracemalloc
from collections.abc import Iterator
from typing import Any


def peculiarities() -> str:
    """A fact of the environment: what this process's interpreter has beside a plain one's, as
    "traced by coverage.tracer.CTracer"; empty where it has nothing. Of functions for every line,
    those of the calling thread."""
    return "; ".join(_peculiarities())


def _peculiarities() -> Iterator[str]:
    """Coverage in subprocesses, a debugger or a profiler that follows forks, and variables as
    PYTHONMALLOC reach ranks without a word of the test."""
    if trace := sys.gettrace():
        yield f"traced by {_name(trace)}"
    if profile := sys.getprofile():
        yield f"profiled by {_name(profile)}"
    if tools := _monitoring_tools():
        yield f"monitored by {', '.join(tools)}"
    if tracemalloc.is_tracing():
        yield f"tracemalloc of {tracemalloc.get_traceback_limit()} frames"
    if sys.flags.dev_mode:
        yield "development mode"
    if (allocator := os.environ.get("PYTHONMALLOC", "default")) != "default":
        yield f"PYTHONMALLOC={allocator}"
    if sys.flags.optimize:
        yield f"optimised (-{'O' * sys.flags.optimize})"
    yield from _build()


def _build() -> Iterator[str]:
    if hasattr(sys, "gettotalrefcount"):
        yield "debug build"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        yield "free-threaded build"
    if (jit := getattr(sys, "_jit", None)) and jit.is_enabled():
        yield "compiled just in time"


def _monitoring_tools() -> list[str]:
    """The tools of sys.monitoring, which Python has from 3.12 on and has six places for."""
    monitoring: Any = getattr(sys, "monitoring", None)
    names = [monitoring.get_tool(place) for place in range(6)] if monitoring else []
    return [str(name) for name in names if name]


def _name(called: object) -> str:
    """Of a function, or of the type of an object that is called as one."""
    named = called if hasattr(called, "__qualname__") else type(called)
    return f"{named.__module__}.{named.__qualname__}"
