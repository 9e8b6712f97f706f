"""`dnnbench sbatch [OPTIONS] -- COMMAND`: writes a batch script for Slurm that runs a session over
the nodes of a job, saves it, and continues it when the job is requeued.

    time limit near, or preemption ── SIGTERM ──> pytest stops as after Ctrl-C: journal kept
    too little time for a launch   ── pytest stops so by itself, and says so in $stopped
                                   ── requeue ──> the same job, SLURM_RESTART_COUNT 1
                                                  pytest ... --dnn-resume

Not here: how a session runs in an allocation (controller/slurm.py).
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from pytest_dnnbench.errors import UsageError

NOTICE_S = 120
"""How long before the time limit the session is stopped: ranks are ended and results saved."""

_SCRIPT = """\
#!/bin/bash
{directives}
# Written by `dnnbench sbatch`. Submit it with `sbatch FILE`.
set -u
cd {directory} || exit 1

resume=()
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then resume=(--dnn-resume); fi

stopped=$(mktemp)
export DNNBENCH_STOPPED_FILE="$stopped"
progress=$(mktemp)
export DNNBENCH_PROGRESS_FILE="$progress"
{command} "${{resume[@]}}" &
session=$!
trap 'echo SIGTERM > "$stopped"; kill -TERM $session 2>/dev/null' TERM
wait $session
status=$?
while kill -0 $session 2>/dev/null; do wait $session; status=$?; done

# Status 2: the session was stopped, and has launches left to make. Where it has made none, the next
# job would make none either, and so on without end.
if [ -s "$stopped" ] && [ "$status" -eq 2 ]; then
    if [ -s "$progress" ]; then
        requeue=yes
    else
        echo "dnnbench: no launch ended in the time of this job, so it is not requeued: allow" \\
            "more time (--directive=--time=...), and add --dnn-resume to continue a session" >&2
    fi
fi
rm -f "$stopped" "$progress"
if [ -n "${{requeue:-}}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
"""


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises UsageError for options that cannot be and a file that exists."""
    own, _, command = _divided(arguments)
    options = _parser().parse_args(own)
    script = script_of(options, command)
    if options.output is None:
        sys.stdout.write(script)
        return 0
    path = Path(options.output)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(script)
    except FileExistsError:
        raise UsageError(f"{path} exists already: name another file") from None
    print(f"wrote {path}; submit it with: sbatch {shlex.quote(str(path))}")
    return 0


def script_of(options: argparse.Namespace, command: list[str]) -> str:
    """The script for a command. Raises UsageError where it starts no pytest."""
    if not command:
        raise UsageError("no command: write it after --, as in `sbatch -N 2 -- pytest CASES`")
    if not any("pytest" in word for word in command):
        raise UsageError(f"{command[0]!r} is no pytest: write `pytest ...` after --")
    if options.nodes < 1:
        raise UsageError(f"--nodes is {options.nodes}: it must be at least 1")
    if command[0] == "pytest":
        command = [sys.executable, "-m", *command]
    directives = [
        "--job-name=dnnbench",
        f"--nodes={options.nodes}",
        "--ntasks-per-node=1",
        "--requeue",
        "--open-mode=append",
        f"--signal=B:TERM@{NOTICE_S}",
        *options.directive,
    ]
    for directive in directives:
        if not directive.startswith("-") or not directive.isprintable():
            raise UsageError(f"--directive {directive!r} is no option of sbatch, as -A project")
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {directive}" for directive in directives),
        directory=shlex.quote(os.getcwd()),
        command=shlex.join(command),
    )


def _divided(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """What stands before and after the first `--`."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench sbatch",
        usage="%(prog)s [-N NODES] [-o FILE] [--directive=OPTION ...] -- pytest ...",
        description="Writes a batch script for Slurm that runs a session, saves it, and continues"
        " it when the job is requeued.",
    )
    parser.add_argument("-N", "--nodes", type=int, default=2, help="nodes (default: %(default)s)")
    parser.add_argument("-o", "--output", metavar="FILE", help="file to write (default: stdout)")
    parser.add_argument(
        "--directive",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option of sbatch, as --directive=--gpus-per-node=4; may be given several times",
    )
    return parser
