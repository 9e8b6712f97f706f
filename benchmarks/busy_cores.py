"""Ranks with several compute threads beside a busy loop: what settings of OpenMP's waiting cost on
idle cores, and what they gain on busy ones.

    python -m benchmarks.busy_cores [ROUNDS [SETTING...]] > busy_cores.json

Each setting has a fork server of its own, for OpenMP reads its variables when it is loaded. The
launches of `single` with resnet18, training, one thread per core, are interleaved: in each round
every setting runs once on idle cores and once beside one busy loop. A launch during which something
else took more than OTHERS of a core is made again. Ratios are to libgomp's own count in the same
round, so that drift of the machine cancels.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import CaseRun, prepare_run
from pytest_dnnbench.controller.disturbance import others_cores, sample_cpu
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.machine import Machine, detect
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks

OTHERS, TRIES, STEPS = 0.25, 2, 4

SPIN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

OWN = "libgomp's own"

SETTINGS: dict[str, dict[str, str]] = {
    OWN: {"GOMP_SPINCOUNT": "300000"},
    "spin 30000": {"GOMP_SPINCOUNT": "30000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 0": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


@contextmanager
def busy_loop(is_busy: bool) -> Iterator[None]:
    """One process that takes a core, if `is_busy`."""
    if not is_busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def settings_of_waiting(variables: dict[str, str]) -> Iterator[None]:
    """These variables and no others of OpenMP's waiting. The fork server would be started anew if
    they changed between two launches."""
    before = dict(os.environ)
    for name in SPIN:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start(machine: Machine, stack: ExitStack) -> tuple[ForkServer, CaseRun]:
    """The fork server and the case of one setting."""
    server = stack.enter_context(ForkServer())
    server.wait_ready()
    ranks = Ranks(server, ["cpu"], threads=machine.cores, timeout_s=300)
    run = prepare_run(
        Case("single", "resnet18", 1, "train"),
        Catalog(),
        RankLauncher(ranks),
        machine,
        steps=STEPS,
        warmup=3,
        data=None,
    )
    return server, run


def throughput(
    machine: Machine, server: ForkServer, run: CaseRun, busy: bool
) -> tuple[float, float]:
    """img/s of a launch, and the load of others beside it, in cores: of the tries the quietest."""
    cores, tries = frozenset(machine.core_numbers), []
    for _ in range(TRIES):
        with busy_loop(busy):
            before = sample_cpu(cores, server.pid)
            launch = run.launcher.measure(run.request)
            load = others_cores(before, sample_cpu(cores, server.pid)) or 0.0
        tries.append((load, launch.throughput))
        # The busy loop gets at most one core, and less where the ranks take it.
        if load <= OTHERS + busy:
            break
    load, images_s = min(tries)
    return images_s, load


def main(rounds: int, names: Sequence[str]) -> None:
    """Prints every figure, and per setting the ratios to libgomp's own count."""
    machine = detect("cpu")
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {"idle": [], "busy": []} for name in names
    }
    with ExitStack() as stack:
        runs = {}
        for name in names:
            with settings_of_waiting(SETTINGS[name]):
                runs[name] = start(machine, stack)
        for number in range(rounds):
            for name, (server, run) in runs.items():
                for state in ("idle", "busy"):
                    with settings_of_waiting(SETTINGS[name]):
                        figure = throughput(machine, server, run, state == "busy")
                    figures[name][state].append(figure)
                    print(f"{name} {state}: {figure}", file=sys.stderr, flush=True)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            _show(figures)
    json.dump({"cpu": machine.cpu, "cores": machine.cores, "figures": figures}, sys.stdout)


def _show(figures: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    for name, states in figures.items():
        line = f"{name:14}"
        for state in ("idle", "busy"):
            values = [value for value, _ in states[state]]
            default = [value for value, _ in figures[OWN][state]]
            ratios = [a / b for a, b in zip(values, default, strict=True)]
            line += (
                f"  {state} {statistics.median(values):6.1f} img/s"
                f" x{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7, sys.argv[2:] or list(SETTINGS))
