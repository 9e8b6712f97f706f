"""Profiles on disk: our own readable JSON, and the choice between it and PipeDream's text.

The content of a file decides how it is read, its suffix how it is written: `.txt` is PipeDream's
text (pipedream/text.py), anything else is JSON. A case is planned from JSON alone, so PipeDream's
text is imported when a file of it comes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.planner.parsing import converted, parsed, shortened
from pytest_dnnbench.planner.profile import ModelInput, Operator, Profile

SCHEMA = 1
"""Of the JSON. History: 1, the first."""


@dataclass(frozen=True, slots=True)
class _Document:
    """The JSON beside its schema."""

    operators: tuple[Operator, ...]
    edges: tuple[tuple[str, str], ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()
    inputs: tuple[ModelInput, ...] = ()
    outputs: tuple[str, ...] = ()


def read_profile(path: Path) -> Profile:
    """Reads either format. Raises ProfileError, with the file's name, for a file without a
    profile."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ProfileError(
            f"the profile {path} cannot be read: {reason}: give a file that `dnnbench profile` or"
            " PipeDream has written"
        ) from error
    try:
        return _parser(content)(content)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def write_profile(profile: Profile, path: Path) -> None:
    """Writes the file whole or not at all: a process that reads it meanwhile never gets half a
    profile."""
    path = Path(path)
    if path.suffix == ".txt":
        from pytest_dnnbench.planner.pipedream.text import format_text

        content = format_text(profile)
    else:
        content = format_json(profile)
    replace_file(path, content)


def _parser(content: str) -> Callable[[str], Profile]:
    if content.lstrip().startswith("{"):
        return parse_json
    from pytest_dnnbench.planner.pipedream.text import parse_text

    return parse_text


def format_json(profile: Profile) -> str:
    """JSON with one operator and one edge to a line, so that people can read it and diff it."""
    metadata = json.dumps(dict(profile.metadata), indent=1, sort_keys=True, allow_nan=False)
    return (
        f'{{\n"schema": {SCHEMA},\n"metadata": {metadata},\n'
        f'"operators": [\n{_lines(profile.operators)}\n],\n'
        f'"edges": [\n{_lines(profile.edges)}\n],\n'
        f'"together": [\n{_lines(profile.together)}\n],\n'
        f'"inputs": [\n{_lines(profile.inputs)}\n],\n'
        f'"outputs": {json.dumps(profile.outputs)}\n}}\n'
    )


def parse_json(content: str) -> Profile:
    """The profile in a JSON text. Raises ProfileError, which says what is wrong and where."""
    try:
        document = parsed(content)
    except ValueError as error:
        raise ProfileError(f"{error}; write the file anew") from error
    if document.get("schema") != SCHEMA:
        schema = shortened(repr(document.get("schema")))
        raise ProfileError(
            f"profile schema is {schema}, this version reads {SCHEMA}: profile again"
        )
    try:
        profile = converted(document, _Document)
    except ValueError as error:
        raise ProfileError(f"not a profile: {error}; profile again") from error
    return Profile(
        profile.operators,
        profile.edges,
        profile.metadata,
        profile.together,
        profile.inputs,
        profile.outputs,
    )


def _lines(entries: tuple[Any, ...]) -> str:
    return ",\n".join(f" {json.dumps(msgspec.to_builtins(entry))}" for entry in entries)
