"""All that is to be run on a GPU, in order of value, each within seconds of its own and of a budget
for all: what there is when time runs out is kept.

    python -m benchmarks.gpu_all [--folder benchmarks/gpu/NAME] [--budget 600] [--device cuda]

FOLDER gets summary.json and summary.md, written anew after each program, what each program printed
(NAME.txt) and the results that it writes itself: gpu-test.json, gpu-test.md, gpu_parity.json,
gpu_startup.json. A program that no longer fits into the budget is listed as not run. `--device cpu`
runs the same programs with small models, to try them out. Prints card, driver and versions first.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu_facts import card_facts
from pytest_dnnbench.controller.machine import detect

ROOT = Path(__file__).resolve().parents[1]
SECONDS = "{seconds}"
"""In the words of a program, the seconds that it gets."""

GRACE_S = 15.0
"""How long a program that is ended may take to end its ranks."""


@dataclass(frozen=True)
class Program:
    """A program: its words after `python -m`, how long it takes at most, and with how little it is
    not worth beginning."""

    name: str
    words: str
    most_s: float
    least_s: float


@dataclass
class Result:
    """What came of a program: "ended" with a status, "cut" after its time, or "not run"."""

    name: str
    outcome: str
    seconds: float = 0.0
    status: int | None = None
    command: str = ""


def programs(device: str, folder: Path, gpus: int) -> list[Program]:
    """Those for this device, the most wanted first."""
    small = device == "cpu"
    inside = shlex.quote(str(folder))
    checks = f"pytest tests/gpu --gpu-tests-on {device} --gpu-folder {inside}"
    few = f"-k {shlex.quote('proven_and_timed[fsdp]')}" if small else ""
    where = f"--device {device} --folder {inside}"
    tiny = "--model resnet18 --batch-size 4 --image-size 32"
    parity = f"--pairs 1 --window 0.2 {tiny}" if small else "--pairs 2"
    startup = f"--launches 1 --window 0.2 {tiny}" if small else "--launches 3"
    hand = f"--pairs 1 --steps 2 {tiny}" if small else "--pairs 2 --steps 60 --batch-size 128"
    hand += "" if small else " --image-size 224"
    ranks = 2 if small or gpus > 1 else 1
    return [
        Program("checks", f"{checks} --gpu-budget {SECONDS} {few}", 300, 60),
        Program("gpu_parity", f"benchmarks.gpu_parity {where} {parity}", 120, 60),
        Program("gpu_startup", f"benchmarks.gpu_startup {where} {startup}", 75, 40),
        Program(
            "by_hand",
            f"benchmarks.by_hand --device {device} --frameworks ddp,fsdp --ranks {ranks} {hand}",
            180,
            60,
        ),
    ]


def main() -> None:
    """Runs the programs. Fails where one of them failed, was cut or was not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/gpu/new"))
    parser.add_argument("--budget", type=float, default=600.0, help="seconds for all of them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    settings = parser.parse_args()
    folder, end_s = settings.folder.resolve(), time.monotonic() + settings.budget
    machine = detect(settings.device)
    facts = card_facts(machine)
    print(json.dumps(facts, indent=1), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    in_order = programs(settings.device, folder, len(machine.gpus))
    results = [Result(each.name, "not run") for each in in_order]
    for place, program in enumerate(in_order):
        results[place] = run(program, folder, end_s - time.monotonic())
        write(folder, facts, results)
        print(f"{results[place].name}: {_said(results[place])}", flush=True)
    if any(each.outcome != "ended" or each.status for each in results):
        raise SystemExit(1)


def run(program: Program, folder: Path, left_s: float) -> Result:
    """Runs a program in what is left of the budget, and keeps what it prints."""
    seconds = min(program.most_s, left_s - GRACE_S)
    words = ["-m", *shlex.split(program.words.replace(SECONDS, f"{seconds:.0f}"))]
    command = shlex.join(["python", *words])
    if seconds < program.least_s:
        return Result(program.name, "not run", command=command)
    begun_s = time.monotonic()
    # A check that has begun within the budget may end after it.
    status = _limited(words, folder / f"{program.name}.txt", seconds + GRACE_S)
    took_s = time.monotonic() - begun_s
    return Result(program.name, "cut" if status is None else "ended", took_s, status, command)


def _limited(words: Sequence[str], printed: Path, seconds: float) -> int | None:
    """The status of a program; None where it had to be ended, with all that it started."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    with (
        printed.open("w") as output,
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # pytest then ends its ranks
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return None


def write(folder: Path, facts: dict[str, object], results: Sequence[Result]) -> None:
    """Writes the summary, in JSON and in Markdown."""
    content = {**facts, "programs": [asdict(each) for each in results]}
    (folder / "summary.json").write_text(f"{json.dumps(content, indent=1)}\n")
    lines = [f"# {facts['machine']}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += ["", "| program | outcome | s |", "|---|---|---|"]
    lines += [
        f"| `{each.command or each.name}` | {_said(each)} | {each.seconds:.0f} |"
        for each in results
    ]
    (folder / "summary.md").write_text("\n".join([*lines, ""]))


def _said(result: Result) -> str:
    return f"ended with status {result.status}" if result.outcome == "ended" else result.outcome


if __name__ == "__main__":
    main()
