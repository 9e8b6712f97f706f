"""The nodes of sessions, as their preflights measured them before the first case: the same for
Markdown, CSV and the page. What is slow was judged then, with the history that there was
(results/verdicts/preflight.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench.counted import counted
from pytest_dnnbench.report.figures import NOTHING
from pytest_dnnbench.report.runs import Run
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.results.records.preflight import LinkPreflight, NodePreflight, PreflightEntry
from pytest_dnnbench.results.verdicts.preflight import rate_text

NODE_HEADS = ("node", "yardstick", "beside the median", "slowest link", "interface", "slow")
LINK_HEADS = ("link", "over", "there", "back", "latency", "slow")

MOST_NODES, MOST_LINKS = 256, 100
"""Rows shown; the slowest ones. The CSV has all."""


@dataclass(frozen=True, slots=True)
class NodesTable:
    """The newest preflight: sentences, and rows of texts under NODE_HEADS and LINK_HEADS. Each
    `..._left_out` counts the rows for which there is no room."""

    sentences: tuple[str, ...]
    nodes: tuple[tuple[str, ...], ...]
    links: tuple[tuple[str, ...], ...]
    nodes_left_out: int
    links_left_out: int


def nodes_table(study: Study) -> NodesTable | None:
    """The table of a study; None where no session ran on several nodes."""
    with_nodes = [(run, run.preflight) for run in study.runs if run.preflight is not None]
    if not with_nodes:
        return None
    run, entry = with_nodes[-1]
    nodes, links = entry.nodes, entry.links
    if len(nodes) > MOST_NODES:
        nodes = sorted(nodes, key=lambda node: (not node.slow, -node.typical_s))
    if len(links) > MOST_LINKS:
        links = sorted(links, key=lambda link: (not link.slow, link.slower_bytes_s))
    return NodesTable(
        _sentences(run, entry),
        tuple(_node_cells(node, entry) for node in nodes[:MOST_NODES]),
        tuple(_link_cells(link) for link in links[:MOST_LINKS]),
        max(0, len(nodes) - MOST_NODES),
        max(0, len(links) - MOST_LINKS),
    )


def _sentences(run: Run, entry: PreflightEntry) -> tuple[str, ...]:
    where = "one GPU of each" if entry.device == "cuda" else "the cores of each"
    measured = (
        f"Measured before the first case of the session {run.saved or run.source}, in"
        f" {entry.took_s:.0f} s: the yardstick of {where}, and the links between every two."
    )
    left_out = f"Left out for want of time: {counted(entry.links_left_out, 'link')}."
    nothing = "No node and no link was slow beside the others or its own history."
    return (
        measured,
        *([left_out] if entry.links_left_out else []),
        *(entry.slow or [nothing]),
    )


def _node_cells(node: NodePreflight, entry: PreflightEntry) -> tuple[str, ...]:
    own = [link for link in entry.links if node.name in link.nodes]
    speed = "" if node.network_mbit_s is None else f", {node.network_mbit_s:,} Mbit/s"
    return (
        node.name,
        f"{1e3 * node.typical_s:.2f} ms",
        f"{node.skew:+.1%}",
        _slowest(node.name, own),
        f"{node.interface}{speed}" or NOTHING,
        node.slow,
    )


def _slowest(name: str, links: Sequence[LinkPreflight]) -> str:
    if not links:
        return NOTHING
    link = min(links, key=lambda link: link.slower_bytes_s)
    (other,) = [each for each in link.nodes if each != name] or [name]
    return f"{rate_text(link.slower_bytes_s)} to {other}"


def _link_cells(link: LinkPreflight) -> tuple[str, ...]:
    there, back = link.bytes_s
    return (
        " to ".join(link.nodes),
        link.backend,
        rate_text(there),
        rate_text(back),
        f"{1e6 * link.latency_s:.0f} us",
        link.slow,
    )


_COLUMNS = (
    *("session", "device", "node", "other_node", "yardstick_s", "skew_fraction"),
    *("clock_offset_s", "clock_uncertainty_s", "interface", "network_mbit_s"),
    *("backend", "there_bytes_s", "back_bytes_s", "latency_s", "slow"),
)


def csv_rows(runs: Iterable[Run]) -> list[Mapping[str, object]]:
    """A row of raw values for each node and each link of each session; `other_node` is empty in
    the row of a node."""
    rows: list[Mapping[str, object]] = []
    for run in runs:
        if (entry := run.preflight) is not None:
            of_session = {"session": run.saved, "device": entry.device}
            rows += [dict.fromkeys(_COLUMNS) | of_session | _of_node(node) for node in entry.nodes]
            rows += [dict.fromkeys(_COLUMNS) | of_session | _of_link(link) for link in entry.links]
    return rows


def _of_node(node: NodePreflight) -> dict[str, object]:
    return {
        "node": node.name,
        "yardstick_s": node.typical_s,
        "skew_fraction": node.skew,
        "clock_offset_s": node.clock_offset_s,
        "clock_uncertainty_s": node.clock_uncertainty_s,
        "interface": node.interface,
        "network_mbit_s": node.network_mbit_s,
        "slow": node.slow,
    }


def _of_link(link: LinkPreflight) -> dict[str, object]:
    first, second = link.nodes
    there, back = link.bytes_s
    return {
        "node": first,
        "other_node": second,
        "backend": link.backend,
        "there_bytes_s": there,
        "back_bytes_s": back,
        "latency_s": link.latency_s,
        "slow": link.slow,
    }
