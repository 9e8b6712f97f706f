"""`python -m pytest_dnnbench COMMAND ...`: what can be asked for outside a pytest session."""

import importlib
import sys

from pytest_dnnbench.errors import DnnbenchError

COMMANDS = {
    "baseline": (
        "pytest_dnnbench.results.verdicts.baseline_command",
        "update, accept or show a baseline",
    ),
    "compare": (
        "pytest_dnnbench.results.verdicts.compare_command",
        "compare two saved files; exit status 1 on a regression",
    ),
    "horovod": (
        "pytest_dnnbench.horovod_build.command",
        "build Horovod against the installed torch and install it",
    ),
    "plan": ("pytest_dnnbench.planner.command", "split a profiled model into pipeline stages"),
    "profile": (
        "pytest_dnnbench.rank.profiling.command",
        "time each operator of a model on one device",
    ),
    "report": ("pytest_dnnbench.report.command", "make one page, plots and tables of saved runs"),
    "schema": ("pytest_dnnbench.results.records.schema_command", "print the format of a file"),
}


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit status: 0 done, 1 the command's own "no", 2 a usage
    error."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m pytest_dnnbench COMMAND ...\n")
        print("\n".join(f"  {name:10}{about}" for name, (_, about) in COMMANDS.items()))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"unknown command {name!r}: choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    except DnnbenchError as error:
        print(f"python -m pytest_dnnbench {name}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
