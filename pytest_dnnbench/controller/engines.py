"""Engines: how a process is started on another node, with its stdin and stdout joined to ours.
Three questions each; what runs there is the agent (agent.py).

    prefix     any command that starts another: ssh, nsenter, podman exec, kubectl exec
    slurm      srun, inside an allocation
    mpirun     Open MPI's, with the nodes that it is given

Other packages add theirs by the hook pytest_dnnbench_engines.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
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


def described_end(status: int, what: str = "its agent") -> str:
    """The words for an exit status as the shell and ssh give it."""
    number = -status if status < 0 else status - 128 if 128 < status < 128 + 65 else 0
    if number:
        try:
            return f"{what} was ended by {signal.Signals(number).name}"
        except ValueError:
            pass
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
        import shlex

        words: list[str] = []
        values = {"{node}": node, "{index}": str(self.names.index(node))}
        values["{line}"] = shlex.join(program)
        for word in self.template:
            if word == "{command}":
                words += program
                continue
            for name, value in values.items():
                word = word.replace(name, value)
            words.append(word)
        placed = any("{command}" in word or "{line}" in word for word in self.template)
        return words if placed else [*words, *program]

    def ended(self, status: int) -> str:
        """As Engine.ended."""
        return described_end(status)


def prefix(nodes: Sequence[str], command: Sequence[str]) -> Prefix:
    """The engine for `--dnn-engine prefix`. Raises UsageError for what cannot be."""
    if not command:
        raise UsageError(
            "--dnn-engine prefix needs --dnn-engine-command, the command that starts a program on"
            ' a node, as in --dnn-engine-command "ssh {node}"'
        )
    if not nodes:
        raise UsageError("--dnn-engine prefix needs --dnn-nodes with the nodes' names, as in n1,n2")
    for name in nodes:
        if name.startswith("-") or not name.isprintable() or not name:
            raise UsageError(f"--dnn-nodes {name!r} is no name of a node")
        if nodes.count(name) > 1 if isinstance(nodes, (list, tuple)) else False:
            raise UsageError(f"--dnn-nodes names {name!r} twice")
    return Prefix(tuple(nodes), tuple(command))
