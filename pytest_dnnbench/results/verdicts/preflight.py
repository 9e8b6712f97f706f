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

import msgspec

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
class _Slow:
    """What is slow: a node by its name, its network by (name, backend), or a link by its nodes and
    backend; in a line, and in a remark for the row of a table."""

    key: Hashable
    line: str
    remark: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of figure, of which less is better. `limit` is how much more is slow, a fraction."""

    limit: float
    says: Callable[[Hashable, float], str]
    shows: Callable[[float], str]
    remark: str = "{ratio} times as slow as {whose}"

    def beside_others(self, figures: Figures) -> list[_Slow]:
        """Each that is slow."""
        slow = []
        for key, figure in figures.items():
            others = [other for name, other in figures.items() if name != key]
            if others and self.is_slow(figure, median(others)):
                slow.append(self.slow(key, figure, "the others", median(others)))
        return slow

    def beside_history(self, figures: Figures, history: Sequence[Figures]) -> list[_Slow]:
        """The same beside earlier sessions."""
        slow = []
        for key, figure in figures.items():
            before = [session[key] for session in history if key in session]
            if before and figure > max(before) and self.is_slow(figure, median(before)):
                when = "the session before" if len(before) == 1 else f"{len(before)} sessions"
                slow.append(self.slow(key, figure, f"in {when}", median(before)))
        return slow

    def is_slow(self, figure: float, reference: float) -> bool:
        """Whether a figure is beyond the limit."""
        return figure > reference * (1 + self.limit)

    def slow(self, key: Hashable, figure: float, whose: str, reference: float) -> _Slow:
        """One that is slow."""
        ratio = f"{figure / reference:.1f}"
        compared = f"{whose} {self.shows(reference)} ({ratio} times as slow)"
        return _Slow(
            key,
            f"{self.says(key, figure)}, {compared}",
            self.remark.format(ratio=ratio, whose=whose),
        )


def judged(entry: PreflightEntry, history: Sequence[PreflightEntry]) -> PreflightEntry:
    """The preflight with what is slow: in lines, those beside the others first, and at each node
    and link. `history` are the preflights of earlier sessions."""
    slow = _slow_parts(entry, history)
    lines = [each.line for each in slow]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES} more"]
    # Whose network it is: the row of a slow network is its node's.
    owners: dict[Hashable, Hashable] = {
        (node.name, link.backend): node.name for node in entry.nodes for link in entry.links
    }
    remarks: dict[Hashable, list[str]] = {}
    for each in slow:
        remarks.setdefault(owners.get(each.key, each.key), []).append(each.remark)

    def remark_at(key: Hashable) -> str:
        return "; ".join(remarks.get(key, ()))

    replace = msgspec.structs.replace
    return replace(
        entry,
        slow=lines,
        nodes=[replace(node, slow=remark_at(node.name)) for node in entry.nodes],
        links=[replace(link, slow=remark_at(_key(link))) for link in entry.links],
    )


def _slow_parts(entry: PreflightEntry, history: Sequence[PreflightEntry]) -> list[_Slow]:
    networks = _slow_networks(entry)
    cut_off = {each.key for each in networks}
    left = [
        link for link in entry.links if not cut_off & {(name, link.backend) for name in link.nodes}
    ]
    backends = dict.fromkeys(link.backend for link in left)
    slow = list(networks)
    slow += _YARDSTICK.beside_others(_yardsticks(entry))
    for kind, figures_of in _OF_LINKS:
        for backend in backends:
            alike = [link for link in left if link.backend == backend]
            slow += kind.beside_others(figures_of(alike))
    software = (entry.torch, entry.device)
    comparable = [each for each in history if (each.torch, each.device) == software]
    slow += _YARDSTICK.beside_history(_yardsticks(entry), list(map(_yardsticks, comparable)))
    for kind, figures_of in _OF_LINKS:
        before = [figures_of(each.links) for each in history]
        slow += kind.beside_history(figures_of(entry.links), before)
    return slow


def _slow_networks(entry: PreflightEntry) -> list[_Slow]:
    """Nodes whose best link over a backend is slow beside the links between other nodes, of which
    there have to be some."""
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
                slow.append(_NETWORK.slow(key, best, "between the others", reference))
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
_NETWORK = _Kind(_TRANSFER.limit, _network, _rate, "its network: {ratio} times as slow as {whose}")
_LATENCY = _Kind(
    LATE_LINK,
    lambda key, figure: f"{_link(key)} is late: {1e6 * figure:.0f} us one way",
    lambda figure: f"{1e6 * figure:.0f} us",
    "{ratio} times as late as {whose}",
)
_OF_LINKS: tuple[tuple[_Kind, Callable[[Sequence[LinkPreflight]], Figures]], ...] = (
    (_TRANSFER, _transfers),
    (_LATENCY, _latencies),
)
