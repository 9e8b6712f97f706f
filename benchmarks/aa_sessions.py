"""Real A/A sessions through the plugin: nothing is changed between them, so every failure is a
false alarm.

    python -m benchmarks.aa_sessions [--sessions 21] [--models resnet18] [--frameworks single,ddp] [--launches 3]
                                     [--keep FOLDER]

Each session measures the suite's cases, is compared with all stored before it (--dnn-baseline
latest, confirmation as by default) and is stored. Prints one line per session: cases by status,
cases measured a second time, the median minimum detectable effect of throughput. The first session
only makes the baseline. About 40 s a session on two quiet cores. With --keep, the saved files stay
in FOLDER, and a folder that has some is continued. Fails on a false alarm.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Prints a line per session; 1 if any had a false alarm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=21)
    parser.add_argument("--models", default="resnet18")
    parser.add_argument("--frameworks", default="single,ddp")
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        storage = (options.keep or Path(scratch)).resolve()
        alarms = compared = 0
        for number in range(1, options.sessions + 1):
            verdicts = _session(storage, options)
            statuses = Counter(verdict["status"] for verdict in verdicts)
            alarms += statuses["regressed"] > 0
            compared += "no-baseline" not in statuses
            print(f"session {number:2}: {_described(verdicts, statuses)}", flush=True)
    print(f"{compared} sessions of A/A compared, {alarms} with a false alarm")
    return int(alarms > 0 or not compared)


def _session(storage: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs one session and returns the verdict of each case."""
    before = set(storage.rglob("*.json"))
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "bench_cases",
            "-q",
            "-p",
            "no:cacheprovider",
            "--gpus",
            "2",
        ),
        *(
            "--dnn-device",
            "cpu",
            "--dnn-models",
            options.models,
            "--dnn-frameworks",
            options.frameworks,
        ),
        *("--dnn-launches", str(options.launches), "--dnn-steps", "8"),
        *("--benchmark-autosave", f"--benchmark-storage=file://{storage}"),
        *(("--dnn-baseline", "latest") if before else ()),
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    saved = set(storage.rglob("*.json")) - before
    if answer.returncode not in (0, 1) or len(saved) != 1:
        raise SystemExit(
            f"the session did not save its file:\n{answer.stdout[-4000:]}{answer.stderr[-2000:]}"
        )
    benches = json.loads(saved.pop().read_text())["benchmarks"]
    return [bench["extra_info"]["dnnbench"]["verdict"] for bench in benches]


def _described(verdicts: list[dict[str, Any]], statuses: Counter[str]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    again = sum(verdict.get("confirmation") is not None for verdict in verdicts)
    times = [verdict["metrics"].get("throughput") for verdict in verdicts]
    effects = [entry["minimum_detectable"] for entry in times if entry]
    smallest = f", finds {statistics.median(effects):.1%}" if effects else ""
    worst = [
        f"{name} {entry['change']:+.1%} (limit {entry['limit']:+.1%})"
        for verdict in verdicts
        for name, entry in verdict["metrics"].items()
        if entry["status"] == "regressed"
    ]
    return f"{counts}; {again} measured again{smallest}" + "".join(
        f"; FALSE ALARM {one}" for one in worst
    )


if __name__ == "__main__":
    sys.exit(main())
