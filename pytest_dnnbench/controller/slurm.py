"""The engine `slurm`: srun inside an allocation; and what a session asks of Slurm once.

Never needed: sacct, which is often switched off.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pytest_dnnbench.controller.engines import Engine, described_end
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.starting import started

STOPPED_FILE = "DNNBENCH_STOPPED_FILE"
"""The variable by which a batch script (batch/command.py) names the file that a session writes to
when it stops for want of time: nobody has sent the script a signal then."""

PROGRESS_FILE = "DNNBENCH_PROGRESS_FILE"
"""The variable by which a batch script names the file that a session writes to for each launch that
a requeued job need not make again."""


def tell_the_script(variable: str, line: str) -> None:
    """Adds a line to the file that a batch script has named in a variable, if there is one. A file
    that cannot be written leaves the job as it is: it is then not requeued."""
    if file := os.environ.get(variable):
        with suppress(OSError), open(file, "a", encoding="utf-8") as lines:
            lines.write(f"{line}\n")


_ANSWER_S = 30.0
"""How long a command of Slurm may take."""

_OUT_OF_MEMORY = 253

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")


@dataclass(frozen=True, slots=True)
class Slurm:
    """Starts each agent as a job step of its own. `words` are srun and more arguments for it."""

    names: tuple[str, ...]
    words: tuple[str, ...] = ("srun",)

    def nodes(self) -> list[str]:
        """The nodes of the allocation."""
        return list(self.names)

    def command(self, node: str, program: Sequence[str]) -> list[str]:
        """As Engine.command.

        The step overlaps with others, for the agent's ranks use what the job has on the node; it is
        bound to no core, for the agent binds its ranks; and without --unbuffered srun would keep
        frames back.
        """
        step = ["-N1", "-n1", "-w", node, "--unbuffered", "--overlap", "--kill-on-bad-exit=1"]
        return [*self.words, *step, "--cpu-bind=none", "--mpi=none", *program]

    def ended(self, status: int) -> str:
        """As Engine.ended."""
        if status == _OUT_OF_MEMORY:
            return "its job step ran out of memory (srun's status 253)"
        return described_end(status, "its job step")


def in_allocation() -> bool:
    """Whether this process is inside an allocation of Slurm."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_JOB_NODELIST" in os.environ


def allocated_nodes() -> tuple[str, ...]:
    """The names of the allocation's nodes. Raises UsageError."""
    names = _answer(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]])
    return tuple(names.split())


def has_several_nodes() -> bool:
    """Whether the allocation has more than one node. Asks Slurm only where the job's own variable
    does not say: a container on one node often has no commands of Slurm. Raises UsageError."""
    number = os.environ.get("SLURM_JOB_NUM_NODES", "")
    return int(number) > 1 if number.isdigit() else len(allocated_nodes()) > 1


def time_left_s() -> float | None:
    """Seconds until the job's time limit; None without a limit, or where Slurm does not say."""
    try:
        job = os.environ["SLURM_JOB_ID"]
        return seconds_of(_answer(["squeue", "-h", "-j", job, "-O", "TimeLeft"]).strip())
    except (KeyError, UsageError):
        return None


def seconds_of(text: str) -> float | None:
    """The seconds in a time as squeue writes it (`1-02:03:04`, `2:03:04`, `3:04`); None for
    anything else, as UNLIMITED."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def slurm(nodes: tuple[str, ...], command: tuple[str, ...]) -> Engine:
    """`--dnn-engine slurm`. Raises UsageError outside an allocation, with the command for one."""
    if not in_allocation():
        raise UsageError(
            "--dnn-engine slurm works inside an allocation, and SLURM_JOB_ID is not set: get one"
            " with `salloc -N 2 pytest ...`, or write a batch script with `dnnbench sbatch -N 2 --"
            " pytest ...`"
        )
    allocated = allocated_nodes()
    if missing := [name for name in nodes if name not in allocated]:
        raise UsageError(
            f"--dnn-nodes {missing[0]!r} is not in the allocation, which has {', '.join(allocated)}"
        )
    return Slurm(nodes or allocated, command or ("srun",))


def _answer(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"inside an allocation of Slurm, and {command[0]} is not on the PATH: stay on this"
            " machine with --dnn-engine none, or run where Slurm's commands are"
        )
    try:
        process = started(
            lambda: subprocess.run(
                command, capture_output=True, text=True, timeout=_ANSWER_S, check=True
            )
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"Slurm does not answer: {error}") from None
    return process.stdout
