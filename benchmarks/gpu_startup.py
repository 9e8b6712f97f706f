"""Where the time of a launch on a GPU goes besides its timed window, and what the proof takes.

    python -m benchmarks.gpu_startup [--folder FOLDER] [--launches 3]

By default `single` with resnet18, 128 images of 224 pixels in channels_last and bf16, and windows
of a second: half a minute. FOLDER gets gpu_startup.json.
`--device cpu` with a small model tries the program out.
"""

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.gpu_facts import facts_of, write
from benchmarks.gpu_parity import case_run
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.step_form import StepForm

STEADY = ("warm-up", "timed steps")
"""Phases whose length the user chooses."""


def settings_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--window", type=float, default=1.0, help="timed seconds of a launch")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--folder", type=Path, help="where gpu_startup.json is written")
    return parser.parse_args(arguments)


def medians(launches: list[Launch]) -> dict[str, float]:
    """Seconds by phase, the median over the launches."""
    phases = [launch.conditions.phases_s for launch in launches]
    names = dict.fromkeys(name for each in phases for name in each)
    return {name: statistics.median(each.get(name, 0.0) for each in phases) for name in names}


def main() -> None:
    """Prints a line per phase, and writes the figures where asked to."""
    settings, begun_s = settings_of(), time.monotonic()
    machine = detect(settings.device)
    form = StepForm(memory_format="channels_last", cuda_graph=settings.cuda_graph)
    with case_run(settings, machine, form) as run:
        ready_s = time.monotonic() - begun_s
        run.prepare()
        proof_s = time.monotonic() - begun_s - ready_s
        walls, launches = [], []
        for _ in range(settings.launches):
            start_s = time.monotonic()
            launches.append(run.launch())
            walls.append(time.monotonic() - start_s)
    spent = medians(launches)
    for name, seconds in spent.items():
        print(f"{name:12} {1e3 * seconds:9.1f} ms")
    besides = statistics.median(walls) - sum(spent.get(name, 0.0) for name in STEADY)
    print(f"a launch besides warm-up and window: {besides:.2f} s; the proof: {proof_s:.2f} s")
    result = {
        **facts_of(machine, launches[0].reports[0].environment),
        "case": run.request.case.label,
        "fork_server_s": ready_s,
        "proof_s": proof_s,
        "launch_s": walls,
        "besides_s": besides,
        "phases_s": [launch.conditions.phases_s for launch in launches],
    }
    write(settings.folder, "gpu_startup.json", result)


if __name__ == "__main__":
    main()
