"""Two nodes with addresses and host names of their own: every framework across them, and a network
that is cut."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.controller.rank_clock import ClockOffset
from pytest_dnnbench.errors import RankFailure
from tests.cluster import programs
from tests.cluster.nodes import ROOT, cluster, namespaces, ranks
from tests.patience import HANG_S, failure_at_hang

CASES = """
import pytest
from tests.cluster.programs import doubled_places

@pytest.mark.parametrize("framework, gpus", [("ddp", 2), ("horovod", 2), ("pipedream", 2)])
def test_train(framework, gpus, process_group, dnnbench):
    model, ranks = "tests.tiny_models:tiny", process_group(gpus)
    dnnbench.measure(framework, model, ranks, phase="train")

def test_single(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")

def test_process_group(process_group):
    assert process_group(2).run(doubled_places, 21) == [(42, "n1"), (42, "n2")]

def test_pipeline_stages(pipeline_stages):
    import numpy as np
    batch = (np.zeros((2, 1, 28, 28), "float32"), np.zeros(2, "int64"))
    first, last = pipeline_stages("tests.tiny_models:tiny", 2).train([batch, batch])
    assert (first.stage, last.stage) == (0, 1) and len(last.losses) == 2
"""
OPTIONS = (
    *(
        "--dnn-device",
        "cpu",
        "--dnn-frameworks",
        "single",
        "--dnn-models",
        "tests.tiny_models:tiny",
    ),
    *("--dnn-batch-size", "8", "--dnn-steps", "3", "--dnn-warmup", "1", "--dnn-launches", "1"),
    *("--gpus", "2", "--benchmark-json", "saved.json"),
    *("--dnn-engine", "prefix", "--dnn-nodes", "n1,n2", "--dnn-ranks-per-node", "1"),
)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command that enters a node."""
    with namespaces(tmp_path_factory.mktemp("nodes")) as (command, _):
        yield command


def test_every_framework_runs_across_nodes_and_the_record_says_so(
    two_nodes: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DNNBENCH_LEASE_DIR", str(tmp_path / "leases"))
    pytester.makepyfile(test_cases=CASES)
    result = pytester.runpytest_subprocess(*OPTIONS, "--dnn-engine-command", two_nodes)
    result.assert_outcomes(passed=6)
    saved = json.loads((pytester.path / "saved.json").read_text())
    records = {each["name"]: each["extra_info"]["dnnbench"] for each in saved["benchmarks"]}
    assert set(records) == {
        "test_single[single-tests.tiny_models:tiny-1gpu]",
        *(f"test_train[{framework}-2gpu-2node]" for framework in ("ddp", "horovod", "pipedream")),
    }
    for name, record in records.items():
        _check_topology(record, 1 if "single" in name else 2)
        efficiencies = {"efficiency_within_node", "efficiency_across_nodes"}
        assert efficiencies & set(record["metrics"]) == (
            set() if "single" in name else efficiencies
        )
    _check_preflight(saved["dnnbench"]["preflight"])
    result.stdout.fnmatch_lines(["dnnbench: preflight: 2 nodes in * ms; gloo * us"])


def _check_topology(record: dict[str, Any], nodes: int) -> None:
    assert record["case"]["nodes"] == nodes
    facts = record["environment"]
    assert facts["must_match"].get("ranks_per_node") == (None if nodes == 1 else "1-1")
    assert facts["recorded"]["nodes"] == ("n1" if nodes == 1 else "n1, n2")
    (launch,) = record["launches"]
    used = launch["conditions"]["nodes"]
    assert [(node["name"], node["ranks"]) for node in used] == [("n1", 1), ("n2", 1)][:nodes]
    assert all(0 < node["clock_uncertainty_s"] < HANG_S for node in used)
    # A veth is a link of 10 Gbit/s to the kernel.
    assert facts["must_match"].get("network_mbit_s") == (None if nodes == 1 else 10_000)
    if record["case"]["framework"] == "ddp":
        assert all(math.isfinite(node["skew"]) and node["skew"] > -1 for node in used)
    assert all(node.get("interface") == (None if nodes == 1 else "eth0") for node in used)
    assert ("network_bytes_s" in facts["recorded"]) == (nodes == 2)


def _check_preflight(preflight: dict[str, Any]) -> None:
    assert [(node["name"], node["interface"]) for node in preflight["nodes"]] == [
        ("n1", "eth0"),
        ("n2", "eth0"),
    ]
    assert all(0 < node["clock_uncertainty_s"] < HANG_S for node in preflight["nodes"])
    (link,) = preflight["links"]
    assert (link["nodes"], link["backend"]) == (["n1", "n2"], "gloo")
    assert min(link["bytes_s"]) > 1e4
    assert preflight["took_s"] < HANG_S


def test_ranks_meet_on_the_network_between_the_nodes_and_a_cut_one_is_named(
    two_nodes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth")
    with cluster(two_nodes, tmp_path / "leases") as nodes:
        job = ranks(nodes)
        answers = job.launch("tests.cluster.programs:places")
        assert [host for _, host, _ in answers] == ["n1", "n2"]
        assert [interface for _, _, interface in answers] == ["eth0", "eth0"]
        assert (
            job.launch("tests.cluster.programs:recorded_variables")
            == [
                {
                    "variables.NCCL_SOCKET_IFNAME": "eth"
                }  # the user's own; gloo's is that of the route
            ]
            * 2
        )
        address, port = answers[0][0].store
        assert address == nodes.nodes[0].addresses["eth0"]
        assert port > 0
        assert all(isinstance(offset, ClockOffset) for offset in job.clock.offsets)
        failure = failure_at_hang(
            job,
            lambda: job.run(programs.cut_the_network),
            lambda hung: hung.rank_phase == "program",
        )
        assert isinstance(failure, RankFailure)
        assert re.search(r"rank [01] (of 2 )?on node n[12] ", str(failure))
        assert failure.node in ("n1", "n2")
