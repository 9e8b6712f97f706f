"""Profiles on disk: our own readable JSON, and the choice between it and PipeDream's text.

A file is told apart by its content when read, and by its suffix when written: `.txt` is PipeDream's
text (pipedream_text.py), anything else is JSON.
"""

import json
from pathlib import Path
from typing import Any

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.files import replace_file
from pytest_dnnbench.planner.pipedream.text import format_text, parse_text
from pytest_dnnbench.planner.profile import Node, Profile

# History of the JSON schema: 1, the first.
SCHEMA = 1
NODE_KEYS = ("id", "description", "forward_s", "backward_s", "activation_bytes", "parameter_bytes")


def read_profile(path: Path) -> Profile:
    """Reads either format. Raises ProfileError, with the file's name, for what is no profile."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"the profile {path} cannot be read: {error}") from error
    parse = parse_json if content.lstrip().startswith("{") else parse_text
    try:
        return parse(content)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def write_profile(profile: Profile, path: Path) -> None:
    """Writes the file whole or not at all, so that a reader beside it never sees half a profile."""
    path = Path(path)
    content = format_text(profile) if path.suffix == ".txt" else format_json(profile)
    replace_file(path, content)


def format_json(profile: Profile) -> str:
    """JSON with one node and one edge to a line, so that people can read it and diff it."""
    nodes = [{key: _plain(getattr(node, key)) for key in NODE_KEYS} for node in profile.nodes]
    metadata = json.dumps(dict(profile.metadata), indent=1, sort_keys=True, allow_nan=False)
    return (
        f'{{\n"schema": {SCHEMA},\n"metadata": {metadata},\n'
        f'"nodes": [\n{_lines(nodes)}\n],\n"edges": [\n{_lines(profile.edges)}\n]\n}}\n'
    )


def parse_json(content: str) -> Profile:
    """The profile in a JSON text. Raises ProfileError, which says what is wrong and where."""
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise ProfileError(
            f"line {error.lineno}: not JSON: {error.msg}; write the file anew"
        ) from error
    if document.get("schema") != SCHEMA:
        found = document.get("schema")
        raise ProfileError(
            f"profile schema is {found!r}, this version reads {SCHEMA}: profile again"
        )
    nodes = [_node(entry, number) for number, entry in enumerate(_list(document, "nodes"))]
    edges = [_edge(entry, number) for number, entry in enumerate(_list(document, "edges"))]
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        raise ProfileError(f"metadata is {metadata!r}: make it an object, or leave it out")
    return Profile(tuple(nodes), tuple(edges), metadata)


def _node(entry: Any, number: int) -> Node:
    if not isinstance(entry, dict) or set(entry) != set(NODE_KEYS):
        raise ProfileError(
            f"nodes[{number}] is {entry!r}: give exactly the keys {', '.join(NODE_KEYS)}"
        )
    for key in NODE_KEYS:
        kind = str if key in ("id", "description") else (int, float)
        if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            wanted = "a string" if kind is str else "a number"
            raise ProfileError(f"nodes[{number}]: {key} is {entry[key]!r}, but must be {wanted}")
    return Node(**entry)


def _edge(entry: Any, number: int) -> tuple[str, str]:
    if (
        not isinstance(entry, list)
        or len(entry) != 2
        or not all(isinstance(end, str) for end in entry)
    ):
        raise ProfileError(
            f"edges[{number}] is {entry!r}: give the ids of two nodes, [source, target]"
        )
    return entry[0], entry[1]


def _list(document: dict[str, Any], key: str) -> list[Any]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise ProfileError(f"{key} is {entries!r}: a profile lists its {key}")
    return entries


def _lines(entries: Any) -> str:
    return ",\n".join(" " + json.dumps(entry, allow_nan=False) for entry in entries)


def _plain(value: Any) -> Any:
    """Whole floats as integers: byte counts that people read."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
