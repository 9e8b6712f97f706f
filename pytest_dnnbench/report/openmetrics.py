"""OpenMetrics text: labels, stamps, and what preflights measured of nodes and links. The figures of
cases are in exports.py."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from pytest_dnnbench.report.runs import Run

_FAMILIES = {
    "dnnbench_node_yardstick_seconds": ("seconds", "a fixed computation on a node, median"),
    "dnnbench_link_bytes_per_second": ("bytes_per_second", "what a link carried one way, median"),
    "dnnbench_link_latency_seconds": ("seconds", "half of a round trip of eight bytes, median"),
}
"""Unit and meaning of each family of a preflight, by its name."""

_Sample = tuple[str, Mapping[str, object], float]
"""A figure of a family, with its labels."""


def labels_text(labels: Mapping[str, object]) -> str:
    """Labels as the format has them."""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def stamp(at: datetime | None) -> str:
    """The time of a sample; empty where it is not known."""
    return f" {at.timestamp():.3f}" if at else ""


def time_of(saved: str) -> datetime | None:
    """When a session was saved; of a time without a zone, in UTC."""
    try:
        time = datetime.fromisoformat(saved)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def preflight_lines(runs: Sequence[Run]) -> list[str]:
    """The families of the preflights, the samples of a series together and oldest first. A series
    has one sample per time, the one of the first run that has it."""
    never = datetime.min.replace(tzinfo=UTC)
    families: dict[str, dict[tuple[str, datetime], str]] = {name: {} for name in _FAMILIES}
    for run in runs:
        at = time_of(run.saved)
        for family, labels, value in _samples(run):
            key = (labels_text(labels), at or never)
            families[family].setdefault(key, f"{family}{key[0]} {value!r}{stamp(at)}")
    lines: list[str] = []
    for family, samples in families.items():
        unit, about = _FAMILIES[family]
        if samples:
            lines += [f"# TYPE {family} gauge", f"# UNIT {family} {unit}"]
            lines += [f"# HELP {family} preflight: {about}"]
            lines += [samples[key] for key in sorted(samples)]
    return lines


def _samples(run: Run) -> Iterator[_Sample]:
    """What the preflight of a run measured."""
    yardstick, rate, latency = _FAMILIES
    entry = run.preflight
    if entry is None:
        return
    for node in entry.nodes:
        yield yardstick, {"node": node.name, "device": entry.device}, node.typical_s
    for link in entry.links:
        there, back = link.nodes, tuple(reversed(link.nodes))
        for (source, sink), bytes_s in zip((there, back), link.bytes_s, strict=True):
            yield rate, {"source": source, "sink": sink, "backend": link.backend}, bytes_s
        labels = {"source": there[0], "sink": there[1], "backend": link.backend}
        yield latency, labels, link.latency_s


def _escaped(value: object) -> str:
    text = str(value)
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
