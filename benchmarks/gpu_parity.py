"""Our `single` case on a GPU beside the same training written by hand, in turn: ours / theirs is to
be at least 0.99, for measuring with us costs nothing.

    python -m benchmarks.gpu_parity [--folder FOLDER] [--pairs 3] [--window 3]

By default resnet50 in channels_last and bf16, 256 images of 224 pixels, on one GPU: under a minute.
Both sides run in fresh processes; each of theirs has done its imports before the first one is
timed. FOLDER gets gpu_parity.json. `--device cpu --image-size 32` with a small model tries the
program out; MNIST's form, of 28 pixels, the loop by hand has for models of ours only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu_facts import facts_of, write
from benchmarks.pairs import compare
from pytest_dnnbench.case import Case, image_form
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import CaseRun, prepare_run
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import Machine, detect
from pytest_dnnbench.controller.placement import Placements
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.run_length import AUTO
from pytest_dnnbench.step_form import StepForm

LOWEST = 0.99
TIMEOUT_S = 300.0


def settings_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """What to compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--window", type=float, default=3.0, help="timed seconds of each side")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--folder", type=Path, help="where gpu_parity.json is written")
    return parser.parse_args(arguments)


@contextmanager
def case_run(settings: argparse.Namespace, machine: Machine, form: StepForm) -> Iterator[CaseRun]:
    """The case as a session runs it: leased devices, watched, fresh ranks, with the yardstick."""
    with ForkServer() as server:
        placements = Placements(
            machine,
            Leases(timeout_s=TIMEOUT_S, announce=print),
            (1,),
            timed=True,
            side_by_side=False,
            server_pid=lambda: server.pid,
        )
        ranks = Ranks(
            server,
            machine.places(1),
            threads=placements.threads(1),
            timeout_s=TIMEOUT_S,
            placements=placements,
        )
        case = Case(
            "single",
            settings.model,
            1,
            "train",
            device=machine.kind,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            precision="bf16",
            form=form,
        )
        window = f"{settings.window:g}s"
        run = prepare_run(
            case, Catalog(), RankLauncher(ranks), machine, steps=window, warmup=AUTO, data=None
        )
        run.with_yardstick = True
        server.wait_ready()
        yield run


def by_hand(settings: argparse.Namespace) -> Callable[[], float]:
    """Starts a loop by hand up to its imports; calling the result trains and gives img/s."""
    channels, classes = image_form(settings.image_size)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.gpu_by_hand"),
            f"--model={Catalog().model(settings.model)}",
            f"--device={settings.device}",
            f"--batch-size={settings.batch_size}",
            *("--image", str(channels), str(settings.image_size)),
            f"--classes={classes}",
            f"--window={settings.window}",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run() -> float:
        with process:
            answer, _ = process.communicate("go\n", timeout=TIMEOUT_S)
        lines = answer.splitlines()
        if process.returncode or lines[:1] != ["ready"]:
            raise SystemExit(f"the loop by hand ended with status {process.returncode}: {answer}")
        return float(json.loads(lines[-1])["img_s"])

    return run


def parity(settings: argparse.Namespace) -> dict[str, Any]:
    """Runs the pairs; the result as it is written."""
    begun_s = time.monotonic()
    machine = detect(settings.device)
    print(machine.describe(), flush=True)
    loops = [by_hand(settings) for _ in range(settings.pairs)]
    theirs: list[float] = []
    launches: list[Launch] = []

    def our_side() -> float:
        launches.append(run.launch())
        return launches[-1].throughput

    def their_side() -> float:
        theirs.append(loops.pop()())
        return theirs[-1]

    with case_run(settings, machine, StepForm(memory_format="channels_last")) as run:
        run.prepare()
        print(f"ready after {time.monotonic() - begun_s:.1f} s", flush=True)
        name = f"{run.request.case.label}, ours / by hand"
        ratio = compare(name, our_side, their_side, settings.pairs, "img/s")
    ours = [launch.throughput for launch in launches]
    return {
        **facts_of(machine, launches[0].reports[0].environment),
        "case": run.request.case.id,
        "ours_img_s": ours,
        "by_hand_img_s": theirs,
        "ratio": ratio,
        "lowest_wanted": LOWEST,
        "spread_of_ours": (max(ours) - min(ours)) / statistics.median(ours),
        "spread_by_hand": (max(theirs) - min(theirs)) / statistics.median(theirs),
        "yardstick_s": [launch.conditions.yardstick_s for launch in launches],
        "phases_s": [launch.conditions.phases_s for launch in launches],
        "disturbed": [launch.conditions.disturbed for launch in launches],
        "seconds": time.monotonic() - begun_s,
    }


def main() -> None:
    """Prints the ratios, and writes them where asked to. Fails below LOWEST on a GPU."""
    settings = settings_of()
    result = parity(settings)
    write(settings.folder, "gpu_parity.json", result)
    if settings.device == "cuda" and result["ratio"] < LOWEST:
        raise SystemExit(f"ours / by hand is {result['ratio']:.3f}: below {LOWEST}")


if __name__ == "__main__":
    main()
