"""The side of a comparison that a fork server belongs to: which interpreter runs its ranks, what is
on their `sys.path`, and the environment variables that they alone have.

    side A    the pytest process's own: its interpreter and its `sys.path`, as they are at a launch
    side B    of --dnn-against: another interpreter, other folders first on `sys.path`, other
              variables, or any of these together

The `sys.path` of a side with an interpreter of its own, from the front:

    the folders that the user gave for the side
    what the pytest process has that is not its interpreter's: the rootdir, the tests' folders
    what the interpreter has by itself: its library and its packages
    where it has no pytest-dnnbench: a folder with ours, and with nothing else of our environment

Not here: what the user writes (session/side_by_side.py), environments that are made
(made_environment.py).
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.files import cache_folder
from pytest_dnnbench.protocol import protocol
from pytest_dnnbench.starting import started

PACKAGE = Path(__file__).resolve().parents[1]

NEEDED = ("torch", "torchvision", "numpy", "msgspec")
"""What our rank code imports."""

OURS = "pytest-dnnbench"

OLDEST = (3, 11)

_LOOK_S = 120.0
"""How long an interpreter may take to say what it has: from a cold network disk, tens of
seconds."""

# Runs in the other interpreter, whatever is installed there: the standard library alone.
_LOOK = """
import importlib.metadata, importlib.util, json, os, sys
asked = json.loads(sys.argv[1])
own = sys.path[1:]
sys.path[:] = [*asked["front"], *own]
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
protocol, package, error = "", "", ""
if has("pytest_dnnbench"):
    package = importlib.util.find_spec("pytest_dnnbench").origin or ""
    try:
        from pytest_dnnbench import protocol as module
        # An editable installation gives the modules that the first package on the path lacks.
        if os.path.dirname(module.__file__) != os.path.dirname(package):
            raise ImportError("it has no module protocol")
        protocol = module.protocol()
    except Exception as why:
        error = f"{type(why).__name__}: {why}"
versions = {}
for distribution in importlib.metadata.distributions():
    name = distribution.metadata["Name"]
    if name:
        versions.setdefault(name.lower().replace("_", "-"), distribution.version)
print("\\n" + json.dumps({
    "own": own, "version": sys.version.split()[0], "prefix": sys.prefix,
    "lacking": [name for name in asked["needed"] if not has(name)],
    "package": package, "protocol": protocol, "error": error, "versions": versions,
}))
"""


class Software(msgspec.Struct, frozen=True):
    """What an interpreter has: its own `sys.path`, its version and prefix; `lacking`, those of
    NEEDED that it cannot import; `package`, the file of its pytest-dnnbench, with the `protocol` of
    that, or the `error` of importing it; the `versions` of all packages, by their names."""

    own: list[str]
    version: str
    prefix: str
    lacking: list[str]
    package: str
    protocol: str
    error: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Side:
    """One side. `front` and `own` are parts of its `sys.path` as the module says; `own` is None for
    the interpreter of this process, of whose `sys.path` nothing is left out. `versions` are those
    of Python and of its packages, by lower-case name; None: ask this process."""

    name: str = "A"
    python: str = sys.executable
    front: tuple[str, ...] = ()
    own: tuple[str, ...] | None = None
    not_users: frozenset[str] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None

    @property
    def sys_path(self) -> tuple[str, ...]:
        """What its ranks have now."""
        if self.own is None:
            return (*self.front, *sys.path)
        users = [entry for entry in sys.path if entry not in self.not_users]
        return (*self.front, *users, *self.own)

    @property
    def threads(self) -> int | None:
        """The compute threads of each rank, where the side sets them."""
        number = self.variables.get("OMP_NUM_THREADS")
        return int(number) if number else None


def software_of(python: str, front: Iterable[str] = ()) -> Software:
    """Asks an interpreter what it has, with these folders first on its `sys.path`. Raises
    UsageError for one that does not run or does not answer."""
    asked = json.dumps({"front": [*front], "needed": NEEDED})
    variables = {name: value for name, value in os.environ.items() if name not in _OF_ITS_PYTHON}
    command = [python, "-c", _LOOK, asked]
    try:
        answer = started(
            lambda: subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=_LOOK_S, check=False
            )
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{python} cannot be run as a Python interpreter: {error}") from None
    try:
        return msgspec.json.decode(answer.stdout.strip().rpartition("\n")[2], type=Software)
    except msgspec.MsgspecError:
        last = (answer.stderr.strip() or answer.stdout.strip() or "it said nothing").splitlines()
        raise UsageError(
            f"{python} does not answer like a Python interpreter"
            f" (status {answer.returncode}): {last[-1]}"
        ) from None


_OF_ITS_PYTHON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH")
"""Variables that change what an interpreter's own `sys.path` is."""


@cache
def our_software() -> Software:
    """What the interpreter of this process has by itself."""
    return software_of(sys.executable)


def other_side(name: str, python: str, paths: Iterable[str], variables: Mapping[str, str]) -> Side:
    """Side B, checked: an interpreter that can run our rank code with these folders first on its
    `sys.path`. Raises UsageError where it cannot, in one line."""
    front = tuple(paths)
    if _is_ours(python):
        software = software_of(sys.executable, (*front, *sys.path))
        _check(sys.executable, software)
        return Side(
            name=name,
            front=front,
            variables=variables,
            versions={**software.versions, "python": software.version},
        )
    ours = our_software()
    users = [entry for entry in sys.path if entry not in ours.own]
    software = software_of(python, (*front, *users))
    _check(python, software)
    borrowed = () if software.package else (str(_package_alone()),)
    ours_if_borrowed = {OURS: ours.versions[OURS]} if borrowed and OURS in ours.versions else {}
    return Side(
        name=name,
        python=python,
        front=front,
        own=(*software.own, *borrowed),
        not_users=frozenset(ours.own),
        variables={**_activated(python, software.prefix), **variables},
        versions={**ours_if_borrowed, **software.versions, "python": software.version},
    )


def _is_ours(python: str) -> bool:
    # Not resolved: the interpreters of two virtual environments may be links to one file.
    return os.path.abspath(python) == os.path.abspath(sys.executable)


def _check(python: str, software: Software) -> None:
    """Raises UsageError for an interpreter that cannot run our rank code."""
    version = tuple(int(part) for part in software.version.split(".")[:2])
    if version < OLDEST:
        raise UsageError(
            f"{python} is Python {software.version}: ranks need {'.'.join(map(str, OLDEST))} or"
            " later"
        )
    if software.lacking:
        raise UsageError(
            f"{python} cannot import {', '.join(software.lacking)}, which every rank needs:"
            " install it there"
        )
    if software.package and software.protocol != protocol():
        speaks = f" ({software.error})" if software.error else ""
        raise UsageError(
            f"{python} has a pytest-dnnbench that ranks cannot be started with{speaks}: that in"
            f" {os.path.dirname(software.package)} has other messages than this one. Install this"
            " version there, or none, and then this one is used"
        )


def _activated(python: str, prefix: str) -> dict[str, str]:
    """The variables that activating the environment would set: programs that its packages bring
    come first."""
    folder = os.path.dirname(os.path.abspath(python))
    variables = {"PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])}
    if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
        variables["VIRTUAL_ENV"] = prefix
    return variables


def _package_alone() -> Path:
    """A folder that holds our package and nothing else of our environment: a link, kept in the
    cache, and there for every process that needs it."""
    name = hashlib.sha256(str(PACKAGE).encode()).hexdigest()[:12]
    folder = cache_folder("packages") / name
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / PACKAGE.name
    with suppress(FileExistsError):
        link.symlink_to(PACKAGE)
    return folder
