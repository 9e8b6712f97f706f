"""How long the proof of a case takes, beside one of its launches at the defaults.

    python -m benchmarks.proof_time [--frameworks single,ddp,...] [--models resnet18,...]
                                    [--ranks 2] [--rounds 1]

A session of the suite runs in another process, and its record says both: `took_s` of the check, and
the seconds of a launch by phase, from the fork of its ranks to their end. A proof should take no
longer than a launch. Of several rounds, sessions of their own, the medians count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

FRAMEWORKS = "single,ddp,fsdp,horovod,pipedream,pipedream-2bw,pipedream-flush,mp,gpipe,1f1b"
FRAMEWORKS += ",interleaved,bfs,zero-bubble,zbv,dualpipev"
MODELS = "resnet18,resnet50,efficientnet_b0,gpt-nano"

Times = tuple[float, float]
"""Seconds of a proof and of a launch."""


def session(frameworks: str, models: str, ranks: int) -> dict[str, Times]:
    """By case, the times of a session of the suite."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", "bench_cases/test_steps.py", "-q"]
        command += ["--gpus", str(ranks), "--dnn-launches", "1", f"--benchmark-json={path}"]
        command += ["--dnn-frameworks", frameworks, "--dnn-models", models]
        command += ["-k", f"train and (single or {ranks}gpu)"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not path.exists():
            sys.exit(done.stdout)
        cases = json.loads(path.read_text())["benchmarks"]
    return dict(_times(case["name"], case["extra_info"]["dnnbench"]) for case in cases)


def _times(name: str, record: dict[str, Any]) -> tuple[str, Times]:
    case = record["case"]
    label = f"{case['framework']}, {case['model']}, {case['gpus']}"
    launch = record["launches"][0]
    return label, (record["correctness"]["took_s"], sum(launch["conditions"]["phases_s"].values()))


def main() -> None:
    """Prints a row for each case, the slowest proof first, and how many are too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frameworks", default=FRAMEWORKS)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    settings = parser.parse_args()
    times: dict[str, list[Times]] = defaultdict(list)
    for _ in range(settings.rounds):
        for name, each in session(settings.frameworks, settings.models, settings.ranks).items():
            times[name].append(each)
    rows = [
        (name, *(statistics.median(figures) for figures in zip(*each, strict=True)))
        for name, each in times.items()
    ]
    rows.sort(key=lambda row: row[2] / row[1])
    print("| case | proof | launch | proof / launch |\n|---|---|---|---|")
    for name, proof_s, launch_s in rows:
        print(f"| {name} | {proof_s:.2f} s | {launch_s:.2f} s | {proof_s / launch_s:.2f} |")
    slow = sum(proof_s > launch_s for _, proof_s, launch_s in rows)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\n{len(rows)} cases, {slow} proofs longer than a launch; load average {load}")


if __name__ == "__main__":
    main()
