"""PipeDream's own text format of a profile, read and written.

    node4 -- Conv2d(3, 64) -- forward_compute_time=MS, backward_compute_time=MS, (on one line)
                              activation_size=BYTES, parameter_size=BYTES
    <TAB>node4 -- node5

Node lines come in any order and may end in ` -- stage_id=K`, the stage in an earlier plan, which is
checked and ignored. An activation size may be a list `[a; b; c]`, which counts as its sum.
The format has no place for metadata. Source: the profiles of msr-fiddle/pipedream, as its optimizer
reads them.
"""

import re

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner.parsing import shortened
from pytest_dnnbench.planner.profile import Operator, Profile

SEPARATOR = " -- "
QUANTITIES = ("forward_compute_time", "backward_compute_time", "activation_size", "parameter_size")
_MS_PER_S = 1000.0

FILE_ORDER = "file_order"
"""In a profile's metadata: the ids in the order of the file, where that is another order.
PipeDream's planner begins with the first source in the file."""


def parse_text(content: str) -> Profile:
    """The profile in a text. Raises ProfileError with the number of the line that is wrong."""
    nodes: dict[str, Operator] = {}
    edges: dict[tuple[str, str], int] = {}
    # Not splitlines: it also splits at characters that may be part of a description.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            if line.startswith("\t"):
                _add_edge(edges, line.strip(), number)
            else:
                _add_node(nodes, line.strip())
        except ProfileError as error:
            raise ProfileError(f"line {number}: {error}") from error
    _check_ends(nodes, edges)
    ordered = tuple(sorted(nodes.values(), key=_natural))
    in_file = [node.id for node in nodes.values()]
    return Profile(
        ordered,
        tuple(sorted(edges, key=edges.__getitem__)),
        {} if in_file == [node.id for node in ordered] else {FILE_ORDER: in_file},
    )


def format_text(profile: Profile) -> str:
    """The text of a profile, times to the nanosecond. Raises ProfileError for a description that
    the format cannot hold, and for nodes that share a weight, of which it knows nothing."""
    if profile.together:
        raise ProfileError(
            f"nodes {' and '.join(profile.together[0][:2])} share a weight or a value, which the"
            " text format cannot say: use JSON"
        )
    lines = [_node_line(node) for node in profile.operators]
    lines += [f"\t{source}{SEPARATOR}{target}" for source, target in profile.edges]
    return "\n".join(lines) + "\n"


def _add_node(nodes: dict[str, Operator], line: str) -> None:
    fields = line.split(SEPARATOR)
    if len(fields) not in (3, 4):
        raise ProfileError(
            f"{shortened(repr(line))} has {len(fields)} fields: write id -- description --"
            " times and sizes"
        )
    if len(fields) == 4 and not re.fullmatch(r"stage_id=\d+", fields[3]):
        raise ProfileError(
            f"{shortened(repr(fields[3]))} is no stage: write stage_id=NUMBER or nothing"
        )
    if fields[0] in nodes:
        raise ProfileError(
            f"node {shortened(fields[0])} appears twice: give every node an id of its own"
        )
    forward_ms, backward_ms, activation_bytes, parameter_bytes = _quantities(fields[2])
    seconds = (forward_ms / _MS_PER_S, backward_ms / _MS_PER_S)
    nodes[fields[0]] = Operator(fields[0], fields[1], *seconds, activation_bytes, parameter_bytes)


def _quantities(field: str) -> list[float]:
    entries = [entry.partition("=") for entry in field.split(", ")]
    if [name for name, _, _ in entries] != list(QUANTITIES):
        expected = ", ".join(f"{name}=NUMBER" for name in QUANTITIES)
        raise ProfileError(f"{shortened(repr(field))}: give {expected}, in this order")
    return [_number(name, text) for name, _, text in entries]


def _number(name: str, text: str) -> float:
    listed = re.fullmatch(r"\[(.*)\]", text) if name == "activation_size" else None
    try:
        return sum(float(part) for part in listed[1].split(";")) if listed else float(text)
    except ValueError:
        raise ProfileError(
            f"{name}={shortened(text)}: not a number of milliseconds or bytes"
        ) from None


def _add_edge(edges: dict[tuple[str, str], int], line: str, number: int) -> None:
    ends = line.split(SEPARATOR)
    if len(ends) != 2:
        raise ProfileError(
            f"{shortened(repr(line))} is no edge: write a tab, then source -- target"
        )
    if edges.setdefault((ends[0], ends[1]), number) != number:
        raise ProfileError(
            f"edge {shortened(line)} appears twice, first in line"
            f" {edges[ends[0], ends[1]]}: remove one"
        )


def _check_ends(nodes: dict[str, Operator], edges: dict[tuple[str, str], int]) -> None:
    for edge, number in edges.items():
        for end in edge:
            if end not in nodes:
                text = SEPARATOR.join(edge)
                raise ProfileError(
                    f"line {number}: edge {shortened(text)}: there is no node {shortened(end)};"
                    " add its line"
                )


def _natural(node: Operator) -> list[tuple[int, int, str]]:
    """Sorts node9 before node10: PipeDream numbers nodes in the order they run, and lists them in
    no order."""
    keys = []
    for part in re.split(r"(\d+)", node.id):
        # A number as its length and its digits: Python refuses to read thousands of digits.
        digits = part.lstrip("0")
        keys.append((1, len(digits), digits) if part.isdecimal() else (0, 0, part))
    return keys


def _node_line(node: Operator) -> str:
    if SEPARATOR in node.description or not node.description.isprintable():
        raise ProfileError(
            f"node {node.id}: the text format cannot hold {node.description!r}; use JSON"
        )
    times_ms = (node.forward_s * _MS_PER_S, node.backward_s * _MS_PER_S)
    values = (*times_ms, node.activation_bytes, node.parameter_bytes)
    digits = (6, 6, 3, 3)
    quantities = (
        f"{name}={value:.{n}f}" for name, value, n in zip(QUANTITIES, values, digits, strict=True)
    )
    return SEPARATOR.join((node.id, node.description, ", ".join(quantities)))
