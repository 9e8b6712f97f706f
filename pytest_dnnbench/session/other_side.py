"""What the user writes of the other side: --dnn-against, --dnn-against-path and --dnn-against-env,
checked before anything starts, and the side that they make.

    --dnn-against old=../old/.venv       NAME=SPEC, or SPEC alone
    SPEC    ../old/.venv, /usr/bin/python3.12       an environment's folder, or an interpreter
            torch==2.9.1                            a requirement: an environment is made for it

Not here: how the sides are compared (side_by_side.py).
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_dnnbench.controller.made_environment import made_environment
from pytest_dnnbench.controller.server_environment import OURS
from pytest_dnnbench.controller.side import Side, other_side, our_software, software_of
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.records.side_by_side import SideEntry
from pytest_dnnbench.session.settings import Settings

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<spec>[^=].*)")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^]]*\])?\s*(===?|[<>!~]=?|@)\s*\S.*")
_NEXT = re.compile(r"[\s,]+(?=[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^]]*\])?\s*(?:[=<>!~]=|[<>@]))")
"""Between two requirements."""

_PYTHONS = ("bin/python", "bin/python3", "python")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for: one of `python` and `requirements`, or neither for the interpreter
    of this process."""

    name: str
    python: str | None
    requirements: tuple[str, ...]
    path: str | None
    variables: Mapping[str, str]


def asked_side(settings: Settings) -> Asked:
    """Reads the options. Raises UsageError, before anything is started or made."""
    name, python, requirements = "", None, tuple[str, ...]()
    if settings.against is not None:
        name, spec = _name_and_spec(settings.against)
        if _REQUIREMENT.fullmatch(spec) and not os.path.exists(spec):
            requirements = tuple(_NEXT.split(spec))
        else:
            python = _interpreter(spec, settings.against)
        name = name or (" ".join(requirements) if requirements else spec)
    path = settings.against_path
    if path is not None and not os.path.isdir(path):
        raise UsageError(f"--dnn-against-path {path}: there is no such folder")
    variables = _variables(settings.against_env)
    return Asked(
        name=name or path or " ".join(settings.against_env),
        python=python,
        requirements=requirements,
        path=os.path.abspath(path) if path else None,
        variables=variables,
    )


def this_side(settings: Settings) -> Side | None:
    """Side A, where --dnn-path puts a folder first on its `sys.path`; None for this process's own.
    Raises UsageError where ranks could not run with it."""
    if settings.path is None:
        return None
    return other_side("A", sys.executable, [os.path.abspath(settings.path)], {})


def _name_and_spec(text: str) -> tuple[str, str]:
    """Both; the name is empty where none is given."""
    named = _NAMED.fullmatch(text.strip())
    name, spec = (named["name"], named["spec"]) if named else ("", text)
    if not spec.strip():
        raise UsageError("--dnn-against is empty: give an interpreter, a folder or a requirement")
    return name, os.path.expanduser(spec.strip())


def _interpreter(spec: str, text: str) -> str:
    """The interpreter at a path, which the user gave with or without a name before it."""
    path = Path(spec).absolute()
    if path.is_dir():
        for name in _PYTHONS:
            if os.access(path / name, os.X_OK) and (path / name).is_file():
                return str(path / name)
        raise UsageError(
            f"--dnn-against {spec}: the folder has no bin/python: give that of a virtual"
            " environment, or an interpreter"
        )
    if not path.exists():
        if spec[:1].isdigit() and text != spec:
            package = text.partition("=")[0]
            raise UsageError(f"--dnn-against {text}: write the requirement as {package}=={spec}")
        raise UsageError(
            f"--dnn-against {text}: there is no such interpreter or folder, and it is no"
            " requirement such as torch==2.9.1"
        )
    if not os.access(path, os.X_OK):
        raise UsageError(f"--dnn-against {spec}: the file cannot be run: give an interpreter")
    return str(path)


def _variables(entries: Sequence[str]) -> dict[str, str]:
    """The variables of --dnn-against-env."""
    variables: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        option = f"--dnn-against-env {entry}"
        if not equals or not name.strip():
            raise UsageError(f"{option}: write NAME=VALUE, as in NCCL_ALGO=Tree")
        if name in OURS:
            raise UsageError(f"{option}: {name} is set by dnnbench for the ranks of every launch")
        if name in ("PYTHONPATH", "PYTHONHOME"):
            raise UsageError(f"{option}: use --dnn-against-path or --dnn-against instead")
        if name == "OMP_NUM_THREADS" and not (value.isdigit() and int(value)):
            raise UsageError(f"{option}: it must be a whole number from 1")
        if variables.get(name, value) != value:
            raise UsageError(f"{option}: {name} is set twice: keep one of the two")
        variables[name] = value
    return variables


def make_side(
    asked: Asked, announce: Callable[[str], None], front: Sequence[str] = ()
) -> tuple[Side, SideEntry]:
    """The side, and what the records say of it. Makes the environment of a requirement, unless it
    is there. `front`: what side A has first on its `sys.path`. Raises UsageError where ranks could
    not run in it."""
    python = asked.python or sys.executable
    if asked.requirements:
        python = made_environment(asked.requirements, announce)
    paths = [asked.path] if asked.path else []
    side = other_side(asked.name, python, paths, asked.variables)
    entry = SideEntry(
        name=asked.name,
        python=python,
        paths=paths,
        variables=dict(asked.variables),
        requirement=" ".join(asked.requirements),
        differences=side_differences(side, asked, front),
    )
    return side, entry


def side_differences(side: Side, asked: Asked, front: Sequence[str] = ()) -> list[str]:
    """What side B has that differs from side A, with these folders first on its `sys.path`; empty
    where nothing does."""
    ours = software_of(sys.executable, [*front, *sys.path])
    before = {**ours.versions, "python": ours.version}
    after = dict(side.versions or before)
    unlike = [
        f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in sorted({*before, *after}, key=lambda name: (name not in _FIRST, name))
        if before.get(name) != after.get(name)
    ]
    if not unlike and side.own is not None and [*side.own] != our_software().own:
        unlike.append(f"interpreter: {sys.executable} -> {side.python}, with the same versions")
    first = [*front, *sys.path, ""][0]
    if front and first != asked.path:
        unlike.append(f"first on sys.path: {first} -> {asked.path or 'nothing of its own'}")
    elif asked.path and first != asked.path:
        unlike.append(f"first on sys.path: {asked.path}")
    unlike += [
        f"{name}: {os.environ.get(name, 'none')} -> {value}"
        for name, value in asked.variables.items()
        if os.environ.get(name) != value
    ]
    return unlike


_FIRST = ("torch", "torchvision", "python", "numpy")
"""Named before the other packages."""
