"""What a preflight says is slow: a node or a link beside the others of the session, and beside the
same one in earlier sessions.

    beside the others    worse than their median by more than the limit
    beside its history   the same, and worse than in any of those sessions

A node all of whose links are slow is named instead of the links. Nothing fails by it: the cases'
own verdicts do that.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_dnnbench.results.records.preflight import LinkPreflight, PreflightEntry

SLOW_NODE = 0.10
"""How much longer a yardstick may take: its own noise is a few percent (docs/statistics.md)."""

SLOW_LINK = 0.30
"""How much less a link may carry. Coarse on purpose: what gloo carries depends on how busy the
cores are."""

LATE_LINK = 1.0
"""How much longer a round trip may take: it depends on how soon a process is woken."""

MOST_LINES = 8

Figures = Mapping[Hashable, float]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of figure, of which less is better. `limit` is how much more is slow, a fraction."""

    limit: float
    says: Callable[[Hashable, float], str]
    shows: Callable[[float], str]

    def beside_others(self, figures: Figures) -> list[str]:
        """A line for each that is slow."""
        slow = []
        for key, figure in figures.items():
            others = [other for name, other in figures.items() if name != key]
            if others and self.is_slow(figure, median(others)):
                slow.append(self.line(key, figure, "the others", median(others)))
        return slow

    def beside_history(self, figures: Figures, history: Sequence[Figures]) -> list[str]:
        """The same beside earlier sessions."""
        slow = []
        for key, figure in figures.items():
            before = [session[key] for session in history if key in session]
            if before and figure > max(before) and self.is_slow(figure, median(before)):
                when = "the session before" if len(before) == 1 else f"{len(before)} sessions"
                slow.append(self.line(key, figure, f"in {when}", median(before)))
        return slow

    def is_slow(self, figure: float, reference: float) -> bool:
        """Whether a figure is beyond the limit."""
        return figure > reference * (1 + self.limit)

    def line(self, key: Hashable, figure: float, whose: str, reference: float) -> str:
        """One line."""
        return (
            f"{self.says(key, figure)}, {whose} {self.shows(reference)}"
            f" ({figure / reference:.1f} times as slow)"
        )


def slow_parts(entry: PreflightEntry, history: Sequence[PreflightEntry]) -> list[str]:
    """Nodes and links that are slow, a line each; those beside the others first. `history` are the
    preflights of earlier sessions."""
    networks = _slow_networks(entry)
    cut_off = {key for key, _ in networks}
    left = [
        link for link in entry.links if not cut_off & {(name, link.backend) for name in link.nodes}
    ]
    backends = dict.fromkeys(link.backend for link in left)
    lines = [line for _, line in networks]
    lines += _YARDSTICK.beside_others(_yardsticks(entry))
    for kind, figures_of in _OF_LINKS:
        for backend in backends:
            alike = [link for link in left if link.backend == backend]
            lines += kind.beside_others(figures_of(alike))
    software = (entry.torch, entry.device)
    comparable = [each for each in history if (each.torch, each.device) == software]
    lines += _YARDSTICK.beside_history(_yardsticks(entry), list(map(_yardsticks, comparable)))
    for kind, figures_of in _OF_LINKS:
        before = [figures_of(each.links) for each in history]
        lines += kind.beside_history(figures_of(entry.links), before)
    if len(lines) > MOST_LINES:
        return [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
    return lines


def _slow_networks(entry: PreflightEntry) -> list[tuple[tuple[str, str], str]]:
    """Nodes whose best link over a backend is slow beside the links between other nodes, of which
    there have to be some: node and backend, and the line of each."""
    slow = []
    for backend in dict.fromkeys(link.backend for link in entry.links):
        links = [link for link in entry.links if link.backend == backend]
        for node in entry.nodes:
            own = _transfers([link for link in links if node.name in link.nodes])
            others = _transfers([link for link in links if node.name not in link.nodes])
            if not own or not others:
                continue
            best, reference = min(own.values()), median(others.values())
            if _NETWORK.is_slow(best, reference):
                key = (node.name, backend)
                line = _NETWORK.line(key, best, "between the others", reference)
                slow.append((key, line))
    return slow


def _yardsticks(entry: PreflightEntry) -> Figures:
    return {node.name: node.typical_s for node in entry.nodes}


def _key(link: LinkPreflight) -> Hashable:
    return (*sorted(link.nodes), link.backend)


def _transfers(links: Sequence[LinkPreflight]) -> Figures:
    """Seconds per byte."""
    return {_key(link): 1 / link.slower_bytes_s for link in links}


def _latencies(links: Sequence[LinkPreflight]) -> Figures:
    return {_key(link): link.latency_s for link in links}


def rate_text(bytes_s: float) -> str:
    """Bytes per second, in decimal units as networks are sold."""
    for unit, factor in (("GB/s", 1e9), ("MB/s", 1e6)):
        if bytes_s >= 0.9995 * factor:  # three digits of less would be 1e+03 of the next unit
            return f"{bytes_s / factor:.3g} {unit}"
    return f"{bytes_s / 1e3:.3g} kB/s"


def _rate(seconds: float) -> str:
    return rate_text(1 / seconds)


def _link(key: Hashable) -> str:
    first, second, backend = key if isinstance(key, tuple) else ("", "", "")
    return f"the link {first}-{second} ({backend})"


def _network(key: Hashable, figure: float) -> str:
    name, backend = key if isinstance(key, tuple) else ("", "")
    return f"the network of node {name} is slow: {_rate(figure)} ({backend}) on its best link"


_YARDSTICK = _Kind(
    SLOW_NODE,
    lambda key, figure: f"node {key} is slow: its yardstick takes {1e3 * figure:.2f} ms",
    lambda figure: f"{1e3 * figure:.2f} ms",
)
_TRANSFER = _Kind(
    1 / (1 - SLOW_LINK) - 1,
    lambda key, figure: f"{_link(key)} is slow: {_rate(figure)}",
    _rate,
)
_NETWORK = _Kind(_TRANSFER.limit, _network, _rate)
_LATENCY = _Kind(
    LATE_LINK,
    lambda key, figure: f"{_link(key)} is late: {1e6 * figure:.0f} us one way",
    lambda figure: f"{1e6 * figure:.0f} us",
)
_OF_LINKS: tuple[tuple[_Kind, Callable[[Sequence[LinkPreflight]], Figures]], ...] = (
    (_TRANSFER, _transfers),
    (_LATENCY, _latencies),
)
