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
from pytest_dnnbench.planner.profile import Node, Profile

SEPARATOR = " -- "
QUANTITIES = ("forward_compute_time", "backward_compute_time", "activation_size", "parameter_size")
_MS_PER_S = 1000.0


def parse_text(content: str) -> Profile:
    """The profile in a text. Raises ProfileError with the number of the line that is wrong."""
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
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
    return Profile(
        tuple(sorted(nodes.values(), key=_natural)), tuple(sorted(edges, key=edges.__getitem__))
    )


def format_text(profile: Profile) -> str:
    """The text of a profile, times to the nanosecond. Raises ProfileError for a description that
    the format cannot hold."""
    lines = [_node_line(node) for node in profile.nodes]
    lines += [f"\t{source}{SEPARATOR}{target}" for source, target in profile.edges]
    return "\n".join(lines) + "\n"


def _add_node(nodes: dict[str, Node], line: str) -> None:
    fields = line.split(SEPARATOR)
    if len(fields) not in (3, 4):
        raise ProfileError(
            f"{line!r} has {len(fields)} fields: write id -- description -- times and sizes"
        )
    if len(fields) == 4 and not re.fullmatch(r"stage_id=\d+", fields[3]):
        raise ProfileError(f"{fields[3]!r} is no stage: write stage_id=NUMBER or nothing")
    if fields[0] in nodes:
        raise ProfileError(f"node {fields[0]} appears twice: give every node an id of its own")
    forward_ms, backward_ms, activation_bytes, parameter_bytes = _quantities(fields[2])
    seconds = (forward_ms / _MS_PER_S, backward_ms / _MS_PER_S)
    nodes[fields[0]] = Node(fields[0], fields[1], *seconds, activation_bytes, parameter_bytes)


def _quantities(field: str) -> list[float]:
    entries = [entry.partition("=") for entry in field.split(", ")]
    if [name for name, _, _ in entries] != list(QUANTITIES):
        expected = ", ".join(f"{name}=NUMBER" for name in QUANTITIES)
        raise ProfileError(f"{field!r}: give {expected}, in this order")
    return [_number(name, text) for name, _, text in entries]


def _number(name: str, text: str) -> float:
    listed = re.fullmatch(r"\[(.*)\]", text) if name == "activation_size" else None
    try:
        return sum(float(part) for part in listed[1].split(";")) if listed else float(text)
    except ValueError:
        raise ProfileError(f"{name}={text}: not a number of milliseconds or bytes") from None


def _add_edge(edges: dict[tuple[str, str], int], line: str, number: int) -> None:
    ends = line.split(SEPARATOR)
    if len(ends) != 2:
        raise ProfileError(f"{line!r} is no edge: write a tab, then source -- target")
    if edges.setdefault((ends[0], ends[1]), number) != number:
        raise ProfileError(
            f"edge {line} appears twice, first in line {edges[ends[0], ends[1]]}: remove one"
        )


def _check_ends(nodes: dict[str, Node], edges: dict[tuple[str, str], int]) -> None:
    for edge, number in edges.items():
        for end in edge:
            if end not in nodes:
                text = SEPARATOR.join(edge)
                raise ProfileError(
                    f"line {number}: edge {text}: there is no node {end}; add its line"
                )


def _natural(node: Node) -> list[tuple[int, int, str]]:
    """Sorts node9 before node10: PipeDream numbers nodes in the order they run, and lists them in
    no order."""
    return [
        (1, int(part), "") if part.isdigit() else (0, 0, part)
        for part in re.split(r"(\d+)", node.id)
    ]


def _node_line(node: Node) -> str:
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
