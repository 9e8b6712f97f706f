"""Launches without ranks, for tests of what happens after a measurement: rates and memory as the
environment says.

FAKE_LEVELS maps a framework to its speed in percent of normal; FAKE_AGAIN does for launches that
confirm; FAKE_DISTURBED says which launches of a framework are disturbed, and how fast they are
then: {"ddp": {"0": 50}}. FAKE_MEMORY_MIB is the peak of each rank; FAKE_OWN_MS maps a framework to
what each rank does on its own in a step. FAKE_NOISE multiplies the noise. FAKE_MACHINE is the speed
of the machine's yardstick in percent of normal.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Sequence

from pytest_dnnbench.controller.case_run import CaseRun
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.messages import RankReport
from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.records.measurement import Launch

# Of launch after launch, in parts of a thousand: 0.1% noise that repeats.
NOISE = (0, 1, -1, 0.5, -0.5, 1, -1)

_launched: Counter[str] = Counter()


def install(launches: int) -> None:
    """Replaces the launch of a case in this process; no fork server is started."""
    ForkServer.start = lambda self: None  # type: ignore[method-assign] # what a conftest of a test does

    def launch(self: CaseRun) -> Launch:
        case = self.request.case
        key = f"{case.id}-{case.phase}"
        number = _launched[key]
        _launched[key] += 1
        levels = json.loads(os.environ.get("FAKE_LEVELS", "{}"))
        if number >= launches:
            levels |= json.loads(os.environ.get("FAKE_AGAIN", "{}"))
        disturbed = (
            json.loads(os.environ.get("FAKE_DISTURBED", "{}"))
            .get(case.framework, {})
            .get(str(number))
        )
        scale = float(os.environ.get("FAKE_NOISE", "1"))
        level = (disturbed or levels.get(case.framework, 100)) / 100
        step = (
            0.01
            / level
            * (1 + scale * next(itertools.islice(NOISE, number % len(NOISE), None)) / 1000)
        )
        self.correctness = {"checked": ["gradients"]}
        own_ms = json.loads(os.environ.get("FAKE_OWN_MS", "{}")).get(case.framework, [])[
            : case.gpus
        ]
        reports = [
            _report(rank, step, self.request.steps, case.batch_size * case.gpus, own_ms)
            for rank in range(case.gpus)
        ]
        conditions = {
            "disturbed": "other processes used 1.0 of 2 cores" if disturbed else None,
            YARDSTICK: 0.2 / float(os.environ.get("FAKE_MACHINE", "100")),
        }
        made = Launch(tuple(reports), conditions)
        self.launches.append(made)
        return made

    CaseRun.launch = launch  # type: ignore[method-assign] # as above


def _report(rank: int, step: float, steps: int, images: int, own_ms: Sequence[float]) -> RankReport:
    ends = tuple(step * (number + 1) for number in range(steps))
    memory = int(float(os.environ.get("FAKE_MEMORY_MIB", "1024")) * 2**20)
    return RankReport(
        rank=rank,
        window_start_s=0.0,
        window_end_s=ends[-1],
        step_index=tuple(range(steps)),
        step_end_s=ends,
        step_samples=(8,) * steps,
        samples_per_update=images,
        memory_bytes={"allocated": memory, "cached": 2 * memory},
        loss=(2.3,) * steps,
        environment={"torch": os.environ.get("FAKE_TORCH", "2.13.0")},
        own_work_s=(own_ms[rank] / 1e3,) * (steps - 1) if own_ms else (),
    )
