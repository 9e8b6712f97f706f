"""The program `dnnbench`, also `python -m pytest_dnnbench`: what can be done outside a pytest
session.

Each command is a module with `main(arguments) -> exit status`, which is imported only when its
command runs.
"""

import importlib
import io
import os
import sys

from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.harmless import refusal, text_block

PROGRAM = "dnnbench"

COMMANDS = {
    "init": (
        "pytest_dnnbench.init.command",
        "write a folder of benchmark cases to start from",
    ),
    "compare": (
        "pytest_dnnbench.results.verdicts.compare_command",
        "compare two saved sessions; status 1 when a case regressed",
    ),
    "baseline": (
        "pytest_dnnbench.results.verdicts.baseline_command",
        "create or update a golden file, accept a change, show noise and limits",
    ),
    "report": (
        "pytest_dnnbench.report.command",
        "write a page, plots and tables from saved sessions",
    ),
    "history": (
        "pytest_dnnbench.report.history_command",
        "name the stored sessions from which on a case was faster or slower",
    ),
    "rename": (
        "pytest_dnnbench.report.rename_command",
        "keep the history of a renamed or moved test: its new name in saved files",
    ),
    "bisect": (
        "pytest_dnnbench.bisection.command",
        "find the commit, or the version of a package, that made cases slower",
    ),
    "replay": (
        "pytest_dnnbench.report.replay_command",
        "measure a case again as its record says; compare losses and speed",
    ),
    "export": (
        "pytest_dnnbench.report.export_command",
        "write saved sessions for github-action-benchmark, Bencher or Prometheus",
    ),
    "machine": (
        "pytest_dnnbench.machine.command",
        "measure which slowdowns this machine can find, and say what to change",
    ),
    "environments": (
        "pytest_dnnbench.controller.environments_command",
        "show or remove the environments that --dnn-against has made",
    ),
    "schema": (
        "pytest_dnnbench.results.records.schema_command",
        "print the format of a saved session",
    ),
    "profile": (
        "pytest_dnnbench.rank.profiling.command",
        "time each operator of a model on one device",
    ),
    "plan": ("pytest_dnnbench.planner.command", "split a profiled model into pipeline stages"),
    "sbatch": (
        "pytest_dnnbench.batch.command",
        "write a batch script for Slurm that runs a session and continues it",
    ),
    "horovod": (
        "pytest_dnnbench.horovod_build.command",
        "build Horovod for the installed torch, and install it",
    ),
}

SIGPIPE_STATUS = 128 + 13
"""What a shell reports of a program that was ended by SIGPIPE."""


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit status: 0 success; 1 the command's negative answer, as
    `compare` gives for a regression; 2 a usage error."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from pytest_dnnbench import __version__

        print(f"pytest-dnnbench {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(
            f"{PROGRAM}: unknown command {name!r}: choose from {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    except UsageError as error:  # one line: what is wrong may hold line breaks
        return _refused(name, refusal(error))
    except DnnbenchError as error:  # some lines: the traceback of a rank, the end of a log
        return _refused(name, text_block(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _refused(name, refusal(error))
    except MemoryError:
        return _refused(name, "there is not enough memory for these files")


def script() -> int:
    """The console script. It ends quietly when the reader of its output has gone, as `head` is."""
    try:
        try:
            # A terminal without Unicode, and half of a pair in the name of a file, are no reason to
            # fail.
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace")
            return main(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be handled
    except BrokenPipeError:
        # Python flushes stdout once more at its exit: what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_STATUS


def _refused(name: str, why: str) -> int:
    print(f"{PROGRAM} {name}: {why}", file=sys.stderr)
    return 2


def _usage() -> str:
    commands = "\n".join(f"  {name:14}{about}" for name, (_, about) in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND ...\n\n"
        "Works on the sessions that pytest-dnnbench has saved, and prepares new ones.\n"
        "Benchmarks themselves are run by pytest.\n\n"
        f"commands:\n{commands}\n\n"
        f"options:\n"
        f"  {'--help':14}show this text; `{PROGRAM} COMMAND --help` explains one command\n"
        f"  {'--version':14}show the version"
    )


if __name__ == "__main__":
    sys.exit(script())
