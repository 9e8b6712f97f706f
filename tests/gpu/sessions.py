"""Sessions of pytest that the checks of this folder start, and what they leave."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = "out.json"


@dataclass(frozen=True)
class Session:
    """What a session printed, and its records by the name of the test; a test that failed has
    none."""

    text: str
    records: dict[str, Any]

    def record(self, test: str) -> dict[str, Any]:
        """The record of a test. Fails, with what the session printed, where the test failed."""
        assert test in self.records, self.text
        return self.records[test]  # type: ignore[no-any-return] # JSON


def run_session(folder: Path, cases: str, words: str, *, timeout_s: float = 240.0) -> Session:
    """Runs pytest on a file of these cases, in a new process whose cache and leases are in
    `folder`."""
    return _ended(_begun(folder, cases, words), folder, timeout_s)


def run_at_once(
    folder: Path, sessions: Mapping[str, tuple[str, str]], *, timeout_s: float = 240.0
) -> Session:
    """Runs several sessions, by name their cases and words, at the same time on the same GPU, and
    returns them as one. Each disturbs the others: nothing can be said of their speed."""
    folders = {name: folder / name for name in sessions}
    for each in folders.values():
        each.mkdir()
    begun = {name: _begun(folders[name], *sessions[name]) for name in sessions}
    ended = [_ended(begun[name], folders[name], timeout_s) for name in sessions]
    records = {test: record for each in ended for test, record in each.records.items()}
    return Session("\n".join(each.text for each in ended), records)


def _begun(folder: Path, cases: str, words: str) -> "subprocess.Popen[str]":
    (folder / "test_cases.py").write_text(cases)
    command = f"-p no:cacheprovider --dnn-device cuda --benchmark-json {OUT} {words}"
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *command.split()],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder),
            "DNNBENCH_LEASE_DIR": str(folder / "leases"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ended(process: "subprocess.Popen[str]", folder: Path, timeout_s: float) -> Session:
    with process:
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()  # pytest then ends its ranks
            text, _ = process.communicate(timeout=30)
    out = folder / OUT
    benchmarks = json.loads(out.read_text())["benchmarks"] if out.exists() else []
    records = {each["name"]: each["extra_info"]["dnnbench"] for each in benchmarks}
    return Session(text, records)
