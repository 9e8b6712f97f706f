"""The preflight: who meets whom, what is measured, and which node or link is called slow."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.node_placement import NodePlacements
from pytest_dnnbench.controller.placement import NodeShare
from pytest_dnnbench.controller.preflight import entry_of, preflight
from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.controller.route import Host
from pytest_dnnbench.messages import LinkSpeed, NodeSpeed
from pytest_dnnbench.rank.preflight import YARDSTICKS, rounds
from pytest_dnnbench.results.baselines.preflight_history import stored_preflights
from pytest_dnnbench.results.records.preflight import (
    NETWORK,
    LinkPreflight,
    NodePreflight,
    PreflightEntry,
)
from pytest_dnnbench.results.records.schema import SCHEMA, SavedFile, SessionEntry
from pytest_dnnbench.results.verdicts.preflight import MOST_LINES, judged, rate_text
from pytest_dnnbench.session import state
from pytest_dnnbench.session.preflight import Preflight, summary_of
from pytest_dnnbench.session.resources import Resources
from pytest_dnnbench.session.settings import Settings
from tests.cluster.test_cluster import fake
from tests.patience import HANG_S


def slow_parts(entry: PreflightEntry, history: Sequence[PreflightEntry]) -> list[str]:
    """The lines."""
    return judged(entry, history).slow


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 8, 16])
def test_every_pair_meets_once_and_nobody_is_in_two_pairs_of_a_round(ranks: int) -> None:
    made = list(rounds(ranks))
    for pairs in made:
        busy = [rank for pair in pairs for rank in pair]
        assert len(busy) == len(set(busy))
    assert sorted(pair for pairs in made for pair in pairs) == [*combinations(range(ranks), 2)]
    assert len(made) <= ranks


def test_two_nodes_are_measured_with_their_link_and_clocks(two_agents: Cluster) -> None:
    entry = preflight(NodePlacements(two_agents, HANG_S), HANG_S)
    assert [node.name for node in entry.nodes] == ["n1", "n2"]
    for node in entry.nodes:
        assert len(node.yardstick_s) == YARDSTICKS
        assert 1e-4 < node.typical_s < HANG_S
        assert abs(node.clock_offset_s) <= node.clock_uncertainty_s < HANG_S
        assert (node.interface, node.network_mbit_s) == ("lo", None)
    (link,) = entry.links
    assert (link.nodes, link.backend, entry.links_left_out) == (("n1", "n2"), "gloo", 0)
    # Loopback, by CPU ranks: from a busy machine's to several times a fast one's.
    assert all(1e4 < rate < 1e12 for rate in link.bytes_s)
    assert 1e-7 < link.latency_s < HANG_S
    assert entry.took_s < HANG_S
    assert entry.facts(["n1", "n2"]) == {NETWORK: link.slower_bytes_s}
    assert entry.facts(["n1"]) == {}


def test_a_preflight_that_fails_is_said_and_fails_no_test() -> None:
    """The cases meet the lost node themselves."""
    gone = fake("b")
    gone.broken = "no route to host"
    shared = SimpleNamespace(placements=NodePlacements(Cluster([fake("a"), gone]), 10))
    config: Any = SimpleNamespace(
        stash={state.SETTINGS: Settings(), state.PARTS: {Resources: shared}},
        pluginmanager=SimpleNamespace(get_plugin=lambda _: None),
        option=SimpleNamespace(collectonly=False, continue_on_collection_errors=False),
        _benchmarksession=SimpleNamespace(disabled=False, skip=False),
    )
    case = SimpleNamespace(fixturenames=["dnnbench"], stash={})
    part, session = Preflight(config), SimpleNamespace(items=[case], testsfailed=0)
    next(part.pytest_runtestloop(cast(Any, session)))  # up to where the tests run
    assert part.entry is None
    assert part.summary() == [
        ("dnnbench: preflight: not measured: node b was lost: no route to host", "yellow")
    ]


def entry(
    yardsticks: Mapping[str, float],
    rates: Mapping[str, float] | None = None,
    *,
    latencies: Mapping[str, float] | None = None,
    torch: str = "2.13",
    device: str = "cpu",
) -> PreflightEntry:
    """Yardsticks in ms; of each link, named as "ab", GB/s, and us where not 40."""
    nodes = [NodePreflight(name=name, yardstick_s=[ms / 1e3], skew=0.0)
             for name, ms in yardsticks.items()]  # fmt: skip
    links = [
        LinkPreflight(
            nodes=(pair[0], pair[1]),
            backend="gloo",
            size_bytes=1 << 20,
            bytes_s=(rate * 1e9, rate * 1.05e9),
            latency_s=1e-6 * (latencies or {}).get(pair, 40.0),
        )
        for pair, rate in (rates or {}).items()
    ]
    return PreflightEntry(torch=torch, device=device, took_s=1.0, nodes=nodes, links=links)


ALIKE = {"a": 5.0, "b": 5.1, "c": 4.9, "d": 5.0}
FULL = {"ab": 10.0, "ac": 9.6, "ad": 10.1, "bc": 9.8, "bd": 10.2, "cd": 10.0}


def test_nodes_and_links_that_are_alike_are_not_named() -> None:
    assert slow_parts(entry(ALIKE, FULL), [entry(ALIKE, FULL)] * 3) == []
    assert slow_parts(entry({"a": 5.0}), []) == []


def test_a_slow_node_is_named_beside_the_others() -> None:
    (line,) = slow_parts(entry({**ALIKE, "c": 6.1}, FULL), [])
    assert line == (
        "node c is slow: its yardstick takes 6.10 ms, the others 5.00 ms (1.2 times as slow)"
    )
    (line,) = slow_parts(entry({"a": 5.0, "b": 6.0}), [])
    assert line.startswith("node b is slow")


def test_a_slow_link_is_named_and_a_slow_network_of_a_node_instead_of_its_links() -> None:
    (line,) = slow_parts(entry(ALIKE, {**FULL, "bd": 3.0}), [])
    assert line == "the link b-d (gloo) is slow: 3 GB/s, the others 10 GB/s (3.3 times as slow)"
    slow = {**FULL, **{pair: 3.0 for pair in FULL if "c" in pair}}
    (line,) = slow_parts(entry(ALIKE, slow), [])
    assert line.startswith("the network of node c is slow: 3 GB/s (gloo) on its best link, between")
    (line,) = slow_parts(entry(ALIKE, FULL, latencies={"ad": 95.0}), [])
    assert line.startswith("the link a-d (gloo) is late: 95 us one way, the others 40 us")


def test_a_network_that_is_slow_over_one_backend_hides_no_link_of_another() -> None:
    slow = entry(ALIKE, {**FULL, **{pair: 3.0 for pair in FULL if "c" in pair}})
    over_nccl = [
        msgspec.structs.replace(link, backend="nccl")
        for link in entry(ALIKE, {**FULL, "cd": 1.0}).links
    ]
    both = msgspec.structs.replace(slow, links=[*slow.links, *over_nccl])
    network, link = slow_parts(both, [])
    assert network.startswith("the network of node c is slow: 3 GB/s (gloo)")
    assert link.startswith("the link c-d (nccl) is slow: 1 GB/s")


def test_each_slow_node_and_link_says_how_much_slower_it_is() -> None:
    slow = {**FULL, **{pair: 3.0 for pair in FULL if "c" in pair}}
    made = judged(entry({**ALIKE, "c": 6.0}, slow, latencies={"ad": 95.0}), [])
    assert [node.slow for node in made.nodes] == [
        *("", ""),
        "its network: 3.4 times as slow as between the others; 1.2 times as slow as the others",
        "",
    ]
    assert {"".join(link.nodes): link.slow for link in made.links if link.slow} == {
        "ad": "2.4 times as late as the others"
    }
    again = judged(entry({"a": 6.0}), [entry({"a": 5.0})])
    assert again.nodes[0].slow == "1.2 times as slow as in the session before"


def test_the_slow_one_of_three_nodes_is_named() -> None:
    three = dict.fromkeys("abc", 5.0)
    (line,) = slow_parts(entry(three, {"ab": 10.0, "ac": 2.0, "bc": 2.1}), [])
    assert line.startswith("the network of node c")
    (line,) = slow_parts(entry(three, {"ab": 10.0, "ac": 2.0, "bc": 10.0}), [])
    assert line.startswith("the link a-c")


def test_two_nodes_that_both_became_slower_are_named_by_their_history() -> None:
    before = [entry({"a": ms, "b": ms}, {"ab": 10.0}) for ms in (5.0, 5.1, 4.9)]
    lines = slow_parts(entry({"a": 6.0, "b": 6.0}, {"ab": 2.0}), before)
    assert [line[:16] for line in lines] == [
        "node a is slow: ",
        "node b is slow: ",
        "the link a-b (gl",
    ]
    assert lines[0].endswith("6.00 ms, in 3 sessions 5.00 ms (1.2 times as slow)")
    assert "in 3 sessions 10 GB/s" in lines[2]


def test_history_counts_only_where_it_compares_and_where_now_is_the_worst() -> None:
    now = entry({"a": 6.0, "b": 6.0}, {"ab": 10.0})
    assert slow_parts(now, [entry({"a": 5.0, "b": 5.0}, torch="2.12")]) == [], "another torch"
    assert slow_parts(now, [entry({"a": 5.0, "b": 5.0}, device="cuda")]) == [], "on GPUs"
    assert slow_parts(now, [entry({"x": 5.0, "y": 5.0})]) == [], "other nodes"
    noisy = [entry(dict.fromkeys("ab", ms)) for ms in (5.0, 5.0, 6.5)]
    assert slow_parts(now, noisy) == [], "it has been slower before"
    turned = [entry(dict.fromkeys("ab", 6.0), {"ba": 40.0})]  # the other way round
    assert len(slow_parts(now, turned)) == 1


@pytest.mark.parametrize(
    ("bytes_s", "text"),
    [(12.34e9, "12.3 GB/s"), (999.7e6, "1 GB/s"), (999.4e6, "999 MB/s"), (5e4, "50 kB/s")],
)
def test_rates_have_three_digits_in_the_unit_that_fits(bytes_s: float, text: str) -> None:
    assert rate_text(bytes_s) == text


def test_many_lines_are_cut() -> None:
    before = [entry(dict.fromkeys("abcdefghijkl", 5.0))]
    lines = slow_parts(entry(dict.fromkeys("abcdefghijkl", 9.0)), before)
    assert (len(lines), lines[-1]) == (MOST_LINES + 1, "and 4 more")


def test_the_entry_has_skew_clocks_and_what_there_was_no_time_for() -> None:
    link = LinkSpeed((0, 2), "nccl", 1 << 20, 2e9, 1e9, 5e-6)
    speeds = [
        NodeSpeed((5e-3, 9e-3, 5e-3), (link,)),
        NodeSpeed((4e-3,), ()),
        NodeSpeed((6e-3,), ()),
    ]
    shares = [NodeShare(fake(name), Host("", "ib0", 1, 100_000)) for name in "abc"]
    made = entry_of(speeds, shares, [ClockOffset(2.0, 0.1)] * 3, "cuda", 4.0)
    assert [node.skew for node in made.nodes] == pytest.approx([0.0, -0.2, 0.2])
    assert made.nodes[0].clock_offset_s == 2.0
    assert made.nodes[0].network_mbit_s == 100_000
    assert (made.links[0].nodes, made.links[0].slower_bytes_s) == (("a", "c"), 1e9)
    assert made.links_left_out == 2
    assert summary_of(made) == (
        "3 nodes in 4 s; yardstick 4.00 to 6.00 ms; nccl 1 GB/s, 5 us;"
        " 2 links left out for want of time"
    )


def _store(folder: Path, number: int, session: Any) -> None:
    saved = SavedFile(benchmarks=[], datetime="2026-01-01", dnnbench=session)
    (folder / f"{number:04}_x.json").write_bytes(msgspec.json.encode(saved))


def test_history_is_read_newest_first_from_sessions_that_have_one(tmp_path: Path) -> None:
    """Of other sessions, failed ones too, none is in the way."""

    def session(*names: str, failed: Sequence[str] = ()) -> SessionEntry:
        measured = entry(dict.fromkeys(names, 5.0))
        return SessionEntry(schema=SCHEMA, preflight=measured, failed=list(failed))

    _store(tmp_path, 1, session("old"))
    _store(tmp_path, 2, SessionEntry(schema=SCHEMA))
    _store(tmp_path, 3, session("failed", failed=["test_x"]))
    _store(tmp_path, 4, session("impossible"))
    _store(tmp_path, 5, None)
    damaged = (tmp_path / "0004_x.json").read_text().replace("0.005", "-1.0")
    (tmp_path / "0004_x.json").write_text(damaged)
    (tmp_path / "0006_x.json").write_text("{")
    names = [each.nodes[0].name for each in stored_preflights(tmp_path)]
    assert names == ["failed", "old"]
    assert stored_preflights(tmp_path / "nowhere") == []
