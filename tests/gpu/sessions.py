"""Sessions of pytest that the checks of this folder start, and what they leave."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


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


def run_session(
    folder: Path, cases: str, kind: str, words: str, *, timeout_s: float = 150.0
) -> Session:
    """Runs pytest on a file of these cases on devices of a kind, in a new process whose cache is in
    `folder`. What it printed stays there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_cases.py").write_text(cases)
    out = folder / "out.json"
    command = f"-p no:cacheprovider --dnn-device {kind} --benchmark-json {out} {words}"
    printed = folder / "printed.txt"  # stays where the test itself is ended
    with (
        printed.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *command.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()  # pytest then ends its ranks
            process.wait(30)
    benchmarks = json.loads(out.read_text())["benchmarks"] if out.exists() else []
    records = {each["name"]: each["extra_info"]["dnnbench"] for each in benchmarks}
    return Session(printed.read_text(), records)
