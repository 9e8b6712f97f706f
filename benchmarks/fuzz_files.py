"""Valid files of every kind that this package reads, small, for the fuzzer to damage."""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pytest_dnnbench.case import Case
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.planner.pipedream.text import format_text
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.profile_file import format_json
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_file import golden_text
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.records.journal_file import Journal, JournalHead, KeptLaunch
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import (
    Acceptance,
    Conditions,
    CorrectnessEntry,
    Record,
)
from pytest_dnnbench.results.records.verdict import Confirmation
from tests.digits import write_pair
from tests.report.records import plan_entry, verdict
from tests.results.synthetic import NAME, disturbed, file_of, record, with_metric

Files = dict[str, bytes]
Made = TypeVar("Made")

SECOND = "test_steps.py::test_train[pipedream-resnet18-3gpu]"

CASE = Case("ddp", "m", 2, "train", options={"buckets": 2})
HEAD = JournalHead(["test_a", "test_b"], {"steps": 2}, {"torch": "2.13"})


def saved_files() -> Files:
    """Two sessions of one case that differ a little, the second with all that a record may hold."""
    return {
        "a.json": _session({NAME: record(seed=1)}),
        "b.json": _session({NAME: record(0.97, seed=2), SECOND: _full_record()}),
    }


def storage() -> Files:
    """Four sessions, as pytest-benchmark names them."""
    return {
        f"{number:04}_nightly.json": _session({NAME: record(seed=number)}) for number in range(1, 5)
    }


def golden_file() -> Files:
    """A golden file of two sessions, with a limit, an acceptance and noise."""

    def write(folder: Path) -> bytes:
        golden = Golden(folder / "golden.json")
        for number, level in enumerate((1.0, 0.99)):
            path = folder / f"{number}.json"
            path.write_bytes(_session({NAME: record(level, seed=number), SECOND: _full_record()}))
            update_golden(golden, read_saved(path), Acceptance("me", "2026-01-01", "it is right"))
        text = golden_text(golden)
        return text.replace('"throughput": {', '"throughput": {"limit": "-5%", ', 1).encode()

    return {"golden.json": _made(write)}


def profile() -> bytes:
    """Five operators that branch and join, as JSON."""
    return format_json(_profile()).encode()


def profile_text() -> bytes:
    """The same as PipeDream's text."""
    return format_text(_profile()).encode()


def plan() -> bytes:
    """A plan of two stages on three ranks, as JSON."""
    return plan_entry("2-1").plan.to_json().encode()


def journal() -> bytes:
    """A session's two launches."""

    def write(folder: Path) -> bytes:
        path = folder / "journal"
        lines = Journal(path)
        lines.begin(HEAD)
        for _ in range(2):
            lines.keep(_launch())
        lines.close()
        return path.read_bytes()

    return _made(write)


def mnist() -> Files:
    """The 10,000-image set with a few images, compressed, and the full set plain."""

    def write(folder: Path) -> Files:
        write_pair(folder, "t10k", 20, compress=True)
        write_pair(folder, "train", 20)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return _made(write)


def _full_record() -> Record:
    full = disturbed(record(framework="pipedream", gpus=3, phase="train"), "other work", 0)
    with_metric(full, "yardstick_s", [0.1, 0.1001, 0.0999])
    with_metric(full, "speedup", [1.8, 1.9, 1.85])
    with_metric(full, "their_metric", [1.0, 2.0, 3.0])
    full.plan = plan_entry()
    full.verdict = verdict("noisy", throughput=-0.02)
    full.verdict = type(full.verdict)(
        status="noisy",
        against=full.verdict.against,
        metrics=full.verdict.metrics,
        confirmation=Confirmation(
            launches=1, per_launch={"throughput": [2900.0]}, disturbed=[None], first={}
        ),
    )
    return full


def _session(records: dict[str, Record]) -> bytes:
    return json.dumps(file_of(records, failed=[])).encode()


def _profile() -> Profile:
    operators = tuple(
        Operator(f"node{number}", "Conv2d(3, 64)", 0.01 * number, 0.02 * number, 1e6, 4e6 * number)
        for number in range(1, 6)
    )
    edges = (("node1", "node2"), ("node1", "node3"), ("node2", "node4"), ("node3", "node4"))
    return Profile(operators, (*edges, ("node4", "node5")))


def _launch() -> KeptLaunch:
    reports = tuple(
        RankReport(
            rank=rank,
            window_start_s=10.0,
            window_end_s=10.3,
            step_index=(0, 1),
            step_end_s=(10.1, 10.3),
            step_samples=(8, 8),
            samples_per_update=16,
            metrics={"resident_peak_bytes": 1e9},
            loss=(1.0, math.inf, 0.9),
            validation=(3, 4),
            details={"threads": 2},
            own_work_s=(0.08,),
        )
        for rank in range(CASE.gpus)
    )
    proof = CorrectnessEntry(checked=["gradients"], largest_deviation={"gradients": 1e-12})
    conditions = Conditions(cores=(0, 1), yardstick_s=0.1)
    return KeptLaunch("test_a", CASE, {"stages": [1, 2]}, proof, reports, conditions)


def _made(write: Callable[[Path], Made]) -> Made:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder))
