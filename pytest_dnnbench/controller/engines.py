"""Engines: how a process is started on another node, with its stdin and stdout joined to ours.
Three questions each; what runs there is the agent (agent.py).

    prefix     any command that starts another: ssh, nsenter, podman exec, kubectl exec
    slurm      srun, inside an allocation (slurm.py)
    mpirun     Open MPI's, with the nodes that it is given

Other packages add theirs by the hook pytest_dnnbench_engines.
"""

import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_dnnbench.errors import UsageError


class Engine(Protocol):
    """One way to start processes on nodes."""

    def nodes(self) -> list[str]:
        """The names of the nodes that there are. Raises UsageError where there are none."""

    def command(self, node: str, program: Sequence[str]) -> list[str]:
        """The command that runs a program on a node, with its stdin and stdout joined to ours and
        unchanged."""

    def ended(self, status: int) -> str:
        """What the exit status of such a command means; minus the number of a signal that ended
        it."""


EngineFactory = Callable[[tuple[str, ...], tuple[str, ...]], Engine]
"""Makes an engine of the nodes' names in --dnn-nodes and the words of --dnn-engine-command, either
empty where the user gave none. Raises UsageError for what cannot be."""


def described_end(status: int, what: str = "its agent") -> str:
    """The words for an exit status as the shell, ssh and srun give it: 128 and the number of a
    signal."""
    number = -status if status < 0 else status - 128
    if number in set(signal.Signals):
        return f"{what} was ended by {signal.Signals(number).name}"
    return f"{what} ended with status {status}"


@dataclass(frozen=True, slots=True)
class Prefix:
    """Starts agents by a command of the user's.

    `template` is the command, word by word. In each word `{node}` stands for the node's name and
    `{index}` for its number from 0. A word `{command}` stands for the words of the program, and
    `{line}` for all of it as one word quoted for a shell, as ssh needs where words have blanks;
    without either the program's words come last.
    """

    names: tuple[str, ...]
    template: tuple[str, ...]

    def nodes(self) -> list[str]:
        """The names that the user gave."""
        return list(self.names)

    def command(self, node: str, program: Sequence[str]) -> list[str]:
        """As Engine.command."""
        values = {"{node}": node, "{index}": str(self.names.index(node))}
        values["{line}"] = shlex.join(program)
        words: list[str] = []
        for word in self.template:
            words += program if word == "{command}" else [_filled(word, values)]
        is_placed = any("{command}" in word or "{line}" in word for word in self.template)
        return words if is_placed else [*words, *program]

    def ended(self, status: int) -> str:
        """As Engine.ended."""
        return described_end(status)


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def prefix(nodes: tuple[str, ...], command: tuple[str, ...]) -> Engine:
    """`--dnn-engine prefix`."""
    if not command:
        raise UsageError(
            "--dnn-engine prefix needs --dnn-engine-command, the command that starts a program on"
            ' a node, as in --dnn-engine-command "ssh {node}"'
        )
    if not nodes:
        raise UsageError(
            "--dnn-engine prefix needs the names of the nodes, as in --dnn-nodes n1,n2"
        )
    return Prefix(nodes, command)


@dataclass(frozen=True, slots=True)
class Mpirun:
    """Starts each agent by an mpirun of its own. `words` are mpirun and the arguments that the
    network needs."""

    names: tuple[str, ...]
    words: tuple[str, ...]

    def nodes(self) -> list[str]:
        """The names that the user or the batch system gave."""
        return list(self.names)

    def command(self, node: str, program: Sequence[str]) -> list[str]:
        """As Engine.command."""
        # mpirun binds the one process of a launch to one core, and its children with it.
        words = [*self.words, "-np", "1", "--host", node, "--bind-to", "none"]
        if os.geteuid() == 0:
            words.append("--allow-run-as-root")
        return [*words, *program]

    def ended(self, status: int) -> str:
        """As Engine.ended."""
        return described_end(status, "mpirun, or the agent that it had started,")


def mpirun(nodes: tuple[str, ...], command: tuple[str, ...]) -> Engine:
    """`--dnn-engine mpirun`."""
    names = nodes or _names_in(os.environ.get("PBS_NODEFILE"))
    if not names:
        raise UsageError(
            "--dnn-engine mpirun needs the names of the nodes, as in --dnn-nodes n1,n2 (or a job of"
            " PBS, whose PBS_NODEFILE names them)"
        )
    return Mpirun(names, command or ("mpirun",))


def _names_in(file: str | None) -> tuple[str, ...]:
    """The nodes in a file with one name a line; a node stands there once for each of its cores."""
    if not file:
        return ()
    try:
        return tuple(dict.fromkeys(Path(file).read_text().split()))
    except OSError as error:
        raise UsageError(f"PBS_NODEFILE {file} cannot be read: {error}") from None
