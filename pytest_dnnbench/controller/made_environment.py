"""Environments that are made for a requirement and kept: this environment with something else laid
over it.

    cache/environments/KEY/    a virtual environment whose packages come first
                               a .pth file that adds this environment's own folders after them

pip sees all of them, so that it installs only what must change: the versions of everything else are
given to it as constraints, except of packages that are tied to the required ones by an exact pin,
as torchvision is to torch. An environment is built beside its place and renamed: it is whole or it
is not there. KEY is a digest of the requirements and of all that lies below.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pytest_dnnbench.controller.kept_environments import (
    environments_folder,
    note_use,
    write_about,
)
from pytest_dnnbench.controller.side import our_software
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.starting import started

LAST_LINES = 6
"""Of pip's output, in the message of a failure."""

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_PIN = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*\(?===?\s*([^\s;,)]+)")


def made_environment(requirements: Sequence[str], announce: Callable[[str], None]) -> str:
    """The interpreter of the environment for these requirements, which is made unless it is there.
    Raises UsageError, with the last lines of what pip says, where it cannot be."""
    folder = environments_folder() / _key(requirements)
    python = folder / "bin" / "python"
    if python.exists():
        note_use(folder)
        return str(python)
    announce(
        f"dnnbench: making an environment for {' '.join(requirements)} in {folder}, once;"
        " this may take minutes"
    )
    building = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _build(building, requirements)
        _name_place(building, folder)
        write_about(building, requirements, sys.prefix)
        with suppress(OSError):  # another session was first, and its environment is the same
            building.rename(folder)
    except OSError as error:
        raise UsageError(f"no environment for {' '.join(requirements)}: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return str(python)


def _key(requirements: Sequence[str]) -> str:
    software = our_software()
    below = [sys.prefix, software.version, *software.own, *sorted(_versions().items())]
    text = repr((sorted(requirements), below))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _build(folder: Path, requirements: Sequence[str]) -> None:
    # The pip of this environment is seen through the .pth file; a second one would bring setuptools
    # of its own, as one more difference.
    without_pip = ["--without-pip"] if "pip" in _versions() else []
    _run([sys.executable, "-m", "venv", *without_pip, str(folder)], requirements)
    python = folder / "bin" / "python"
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=scheme))
    lines = [f"import site; site.addsitedir({entry!r})" for entry in _package_folders()]
    packages.joinpath("zz-below.pth").write_text("\n".join(lines) + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(constraints_of(requirements)) + "\n")
    tied = tied_to({normal(name_of(each)) for each in requirements}, _pins())
    packages_to_install = [*requirements, *sorted(tied & _needs_the_required(requirements))]
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    _run([*command, "-c", str(constraints), *packages_to_install], requirements)


def _name_place(building: Path, folder: Path) -> None:
    """Lets the programs of an environment that is about to move name its own interpreter in its
    place: they are first on the PATH of the side's ranks."""
    for path in building.joinpath("bin").iterdir():
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            if text.startswith(b"#!"):
                path.write_bytes(text.replace(f"{building}/".encode(), f"{folder}/".encode()))


def _package_folders() -> list[str]:
    """This environment's folders of packages; what a .pth file of theirs adds follows from them."""
    return [entry for entry in our_software().own if entry.endswith("-packages")]


def _run(command: Sequence[str], requirements: Sequence[str]) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER", "PIP_PREFIX")
    }
    process = started(
        lambda: subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
    )
    if process.returncode:
        last = [*process.stdout.strip().splitlines(), *process.stderr.strip().splitlines()][
            -LAST_LINES:
        ]
        raise UsageError(
            f"--dnn-against: no environment could be made for {' '.join(requirements)}"
            f" ({' '.join(command[1:4])} ended with status {process.returncode}):"
            f" {' | '.join(last)}"
        )


def constraints_of(requirements: Iterable[str]) -> list[str]:
    """The versions of this environment that stay: NAME==VERSION each."""
    free = tied_to({normal(name_of(each)) for each in requirements}, _pins())
    # A local version, as 2.9.1+cpu, is on no index, but it is installed already.
    return [
        f"{name}=={version}" for name, version in sorted(_versions().items()) if name not in free
    ]


def tied_to(names: Iterable[str], pins: Mapping[str, set[str]]) -> set[str]:
    """These packages and all whose versions move with theirs. `pins` has, for each package, those
    of which it requires one exact version: if one of the two moves, the other must."""
    tied, waiting = set[str](), [*names]
    while waiting:
        name = waiting.pop()
        if name not in tied:
            tied.add(name)
            waiting += pins.get(name, ())
            waiting += [other for other, pinned in pins.items() if name in pinned]
    return tied


def _needs_the_required(requirements: Iterable[str]) -> set[str]:
    """The packages that pin a required one, whatever way around: their own versions have to be
    chosen anew."""
    names = {normal(name_of(each)) for each in requirements}
    pins, above = _pins(), set[str]()
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        pinning = {other for other, pinned in pins.items() if name in pinned} - above - names
        above |= pinning
        waiting += pinning
    return above


def _versions() -> dict[str, str]:
    return {
        normal(package.metadata["Name"]): package.version
        for package in reversed([*importlib.metadata.distributions()])
        if package.metadata["Name"]
    }


def _pins() -> dict[str, set[str]]:
    """Of each package here: those that it requires in one exact version."""
    versions = _versions()
    pins: dict[str, set[str]] = {}
    for name in versions:
        requires = [each for each in importlib.metadata.requires(name) or [] if "extra" not in each]
        pinned = {normal(pin[1]) for each in requires if (pin := _PIN.match(each))}
        pins[name] = {other for other in pinned if other in versions}
    return pins


def name_of(requirement: str) -> str:
    """The package of a requirement. Raises UsageError where it names none."""
    if match := _NAME.match(requirement):
        return match[1]
    raise UsageError(f"--dnn-against {requirement!r} is no requirement such as torch==2.9.1")


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
