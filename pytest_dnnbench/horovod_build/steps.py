"""The steps of a build: each runs one command, writes its output to one log, and explains a
failure.

Where to download from is not decided here: that is pip's configuration.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_dnnbench.errors import BuildError
from pytest_dnnbench.horovod_build.recipe import HOROVOD_VERSION, SDIST_SHA256, Recipe
from pytest_dnnbench.horovod_build.requisites import find_cmake
from pytest_dnnbench.installed import installed_version
from pytest_dnnbench.starting import started

BUILD_REQUIREMENTS = ("setuptools", "wheel", "packaging", "cloudpickle", "psutil", "pyyaml", "cffi")
"""What Horovod's setup.py imports or asks for. If one is missing, it is installed for the build
alone."""

KNOWN_CAUSES = (
    (r"No module named pip", "this environment has no pip: python -m ensurepip"),
    (
        r"Killed|cc1plus.*(?:terminated|killed)|virtual memory exhausted|out of memory",
        "memory ran out: use --jobs 1",
    ),
    (
        r"No space left on device",
        "the disk is full: free about 500 MB, or set TMPDIR and XDG_CACHE_HOME",
    ),
    (
        r"unrecognized command.line option .*c\+\+20",
        "the compiler is too old for C++20: set CXX to GCC 11 or newer",
    ),
    (
        r"Python\.h: No such file",
        "Python's headers are missing (apt: python3-dev; dnf: python3-devel)",
    ),
    (
        r"unsupported GNU version|host compiler",
        "nvcc does not take this compiler: set CXX to an older GCC",
    ),
    (
        r"Could NOT find NCCL|nccl\.h: No such file",
        "NCCL was not found: set HOROVOD_NCCL_HOME to the folder of its include and lib",
    ),
    (
        r"Failed to find nvcc|Could NOT find CUDAToolkit|cuda_runtime\.h: No such file",
        "the CUDA toolkit is incomplete: set CUDA_HOME, or use --cpu",
    ),
    (
        r"No matching distribution|Could not find a version|Connection|Network is unreachable"
        r"|Name or service",
        "no package index was reached: check pip's configuration; without an index, install"
        f" {', '.join(BUILD_REQUIREMENTS)} and CMake first, and give the source archive with"
        " --sdist",
    ),
    (
        r"error: .*(?:torch|c10|at)::|torch/.*: error",
        "this torch's headers do not fit Horovod: use a torch of 2.9 to 2.13",
    ),
)
"""A pattern in the output of a failed step, and the cause that it points to."""

USUAL_CAUSES = (
    "too little memory (--jobs 1), a full disk, a compiler older than GCC 11, a torch outside 2.9"
    " to 2.13"
)

CHECK = (
    "import horovod.torch as hvd; assert hvd.gloo_built(), 'built without gloo';"
    " print('gloo', bool(hvd.gloo_built()), 'nccl', bool(hvd.nccl_built()),"
    " 'mpi', bool(hvd.mpi_built()))"
)

_ERROR_LINE = re.compile(
    r"^ *(?:CMake Error .*\n\s*\S.*"
    r"|.*fatal error:.*|.*\berror: (?!subprocess).*"
    r"|.*Could NOT find.*|ERROR: (?!Failed).*|\w+Error: .*)",
    re.MULTILINE,
)
"""The first line of an output that reports an error; for CMake, with the line after it."""

_PERCENT = re.compile(r"^\s*\[\s*(\d+)%\]")


class BuildLog:
    """Runs the commands of named steps. `path` receives their whole output, `say` one line per
    step; `lasting` is where the log of a failed build is kept."""

    def __init__(self, path: Path, lasting: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.lasting = lasting
        self.say = say

    def run(
        self, step: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> str:
        """Runs one step and returns its output. Raises BuildError, which names the step, its exit
        status, the likely cause and the log."""
        start, lines, shown = time.monotonic(), list[str](), 0
        with self.path.open("a") as log:
            log.write(f"=== {step}: {' '.join(command)}\n")
            log.flush()
            with started(lambda: _process(command, environment)) as process:
                for line in process.stdout or ():
                    log.write(line)
                    lines.append(line)
                    if (percent := _PERCENT.match(line)) and int(percent[1]) >= shown + 20:
                        shown = int(percent[1])
                        self.say(f"  {shown} % after {time.monotonic() - start:.0f} s")
        if process.returncode:
            raise self.failure(step, f"ended with status {process.returncode}", "".join(lines))
        self.say(f"{step}: {time.monotonic() - start:.0f} s")
        return "".join(lines)

    def failure(self, step: str, what: str, output: str) -> BuildError:
        """The error of a step, with the causes that its output points to, else the usual ones."""
        likely = [cause for pattern, cause in KNOWN_CAUSES if re.search(pattern, output)]
        causes = f"likely {'; or '.join(likely)}" if likely else f"usual causes: {USUAL_CAUSES}"
        error_line = _ERROR_LINE.search(output)
        shown = f" ({' '.join(error_line[0].split())[:200]})" if error_line else ""
        return BuildError(
            f"Horovod was not set up: step {step!r} {what}{shown}; {causes}."
            f" The whole output: {self.lasting}"
        )


def build_wheel(
    recipe: Recipe, folder: Path, log: BuildLog, *, jobs: int, sdist: Path | None
) -> Path:
    """Builds the recipe's wheel inside `folder` and returns it."""
    tools = folder / "tools"
    environment = _with_tools(tools, log)
    source = sdist or _download(folder / "source", log)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise log.failure(
            "source", f"gave {source.name} with SHA-256 {digest}, expected {SDIST_SHA256}", ""
        )
    # No cache: pip's does not distinguish torch versions, so it could return a wheel that was built
    # against another torch.
    command = [
        *_pip("wheel"),
        "-v",
        "--no-cache-dir",
        "--no-deps",
        "--no-build-isolation",
        str(source),
    ]
    log.run(
        "compile", [*command, "-w", str(folder / "wheel")], recipe.environment(jobs) | environment
    )
    return next((folder / "wheel").glob("horovod-*.whl"))


def install(wheel: Path, log: BuildLog, *, again: bool) -> None:
    """Installs a wheel and its dependencies into this environment; with `again` even if the same
    version is already installed."""
    command = [*_pip("install"), "--no-cache-dir"]
    log.run("install", [*command, str(wheel)])
    if again:
        log.run("install again", [*command, "--force-reinstall", "--no-deps", str(wheel)])


def check_installed(log: BuildLog) -> str:
    """Imports horovod.torch in a fresh interpreter; returns the line that says what it was built
    with."""
    return log.run("check", [sys.executable, "-c", CHECK]).strip().splitlines()[-1]


def default_jobs(memory: Path = Path("/proc/meminfo")) -> int:
    """Compilations at a time: one per core, and at most one per 2.5 GB of available memory, since
    torch's headers take 2.2 GB."""
    available = (
        re.search(r"^MemAvailable:\s+(\d+) kB", memory.read_text(), re.MULTILINE)
        if memory.exists()
        else None
    )
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, int(int(available[1]) * 1024 / 2.5e9))) if available else cores


def _process(
    command: Sequence[str], environment: Mapping[str, str] | None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
    )


def _with_tools(folder: Path, log: BuildLog) -> dict[str, str]:
    """Installs the missing tools into `folder`; returns the variables that lead the build to
    them."""
    missing = [name for name in BUILD_REQUIREMENTS if installed_version(name) is None]
    cmake = find_cmake()
    if cmake is None:
        missing.append("cmake>=3.19")
    if missing:
        log.run("tools", [*_pip("install"), "--target", str(folder), *missing])
    search_path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "HOROVOD_CMAKE": cmake or str(folder / "cmake" / "data" / "bin" / "cmake"),
        "PYTHONPATH": os.pathsep.join(search_path),
    }


def _download(folder: Path, log: BuildLog) -> Path:
    requirement = f"horovod=={HOROVOD_VERSION}"
    log.run(
        "source",
        [
            *_pip("download"),
            "--no-deps",
            "--no-binary",
            "horovod",
            "--no-build-isolation",
            "-d",
            str(folder),
            requirement,
        ],
    )
    return next(folder.glob("horovod-*"))


def _pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", command, "--disable-pip-version-check", "--no-input"]
