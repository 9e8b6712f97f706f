"""Real A/A sessions through the plugin: nothing is changed between them, so every failure is a
false alarm.

    python -m benchmarks.aa_sessions [--sessions 21] [--models resnet18] [--frameworks single,ddp]
                                     [--launches 3] [--keep FOLDER]

Each session measures the suite's cases, is compared with all sessions before it (--dnn-baseline
latest, with the usual confirmation), and is stored. Prints one line per session: cases by status,
cases measured a second time, the median minimum detectable effect of throughput. The first session
only makes the baseline. About 40 s a session on two quiet cores. With --keep, the saved files stay
in FOLDER, and a folder that has some is continued. Fails on a false alarm.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.verdict import Verdict

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
            statuses = Counter[str](verdict.status for verdict in verdicts)
            alarms += statuses["regressed"] > 0
            compared += "no-baseline" not in statuses
            print(f"session {number:2}: {_described(verdicts, statuses)}", flush=True)
    print(f"{compared} sessions of A/A compared, {alarms} with a false alarm")
    return int(alarms > 0 or not compared)


def _session(storage: Path, options: argparse.Namespace) -> list[Verdict]:
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
    return [record.verdict for record in read_saved(saved.pop()).cases.values()]


def _described(verdicts: list[Verdict], statuses: Counter[str]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    again = sum(verdict.confirmation is not None for verdict in verdicts)
    effects = [
        verdict.metrics["throughput"].minimum_detectable
        for verdict in verdicts
        if "throughput" in verdict.metrics
    ]
    smallest = f", detects {statistics.median(effects):.1%}" if effects else ""
    alarms = [
        f"{name} {metric.change:+.1%} (limit {metric.limit:+.1%})"
        if metric.limit is not None
        else f"{name} {metric.change:+.1%}"
        for verdict in verdicts
        for name, metric in verdict.metrics.items()
        if metric.status == "regressed"
    ]
    return f"{counts}; {again} measured again{smallest}" + "".join(
        f"; FALSE ALARM {alarm}" for alarm in alarms
    )


if __name__ == "__main__":
    sys.exit(main())
