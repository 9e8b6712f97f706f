"""Which cases the command line names: by files, folders and tests. Not here: those that options
such as -k deselect, of which pytest tells (baseline.py)."""

from pathlib import Path

import pytest


def is_chosen(nodeid: str, config: pytest.Config) -> bool:
    """Whether a case lies in what the command line names. All do where it names nothing, or
    something else than paths (--pyargs)."""
    if config.args_source != pytest.Config.ArgsSource.ARGS:
        return True
    named = [_named(argument, config.invocation_params.dir) for argument in config.args]
    file, names = _named(nodeid, config.rootpath)
    return any(
        not path.exists() or (path in (file, *file.parents) and _begins(names, tests))
        for path, tests in named
    )


def _named(text: str, folder: Path) -> tuple[Path, list[str]]:
    """The path in a node id or an argument, and the names of classes and tests behind it. What is
    in brackets may hold colons: my.models:net."""
    path, _, rest = text.partition("::")
    names, bracket, parameters = rest.partition("[")
    split = names.split("::") if names else []
    if split:
        split[-1] += bracket + parameters
    return (folder / path).resolve(), split


def _begins(names: list[str], chosen: list[str]) -> bool:
    """Whether names are those chosen, or lie in their class; without parameters, a name stands for
    a test with any."""
    if not chosen or names[: len(chosen)] == chosen:
        return True
    return [*names[:-1], names[-1].partition("[")[0]] == chosen if names else False
