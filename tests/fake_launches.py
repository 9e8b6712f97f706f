"""A launcher without ranks, for tests of what happens around and after a launch: speed and memory
are what the environment says.

    FAKE_LEVELS       a framework's speed in percent of normal: {"ddp": 80}
    FAKE_AGAIN        the same for the launches that confirm a verdict
    FAKE_DISTURBED    the disturbed launches of a framework, with their speed: {"ddp": {"0": 50}}
    FAKE_MEMORY_MIB   the memory peak of each rank
    FAKE_OWN_MS       milliseconds of a step for which each rank of a framework needs no other
    FAKE_PARTS_MS     milliseconds of a framework's profiled step by part: {"ddp": {"data": 5}}
    FAKE_NOISE        a factor of the noise
    FAKE_PREDICTED_MS milliseconds that a step of a framework is predicted to take
    FAKE_MACHINE      the speed of the machine's yardstick in percent of normal

Planning, the agreement of proofs, conditions and the list of launches are the product's own.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.messages import (
    Correctness,
    OperatorTime,
    PredictedStep,
    RankReport,
    StepProfile,
    TimedRequest,
)
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.schema import Conditions
from pytest_dnnbench.run_length import TIMED_STEPS
from pytest_dnnbench.session.resources import Resources
from pytest_dnnbench.step_parts import Part

NOISE = (0, 1, -1, 0.5, -0.5, 1, -1)
"""Of launch after launch, in parts of a thousand: 0.1% noise that repeats."""

STEP_S, YARDSTICK_S = 0.01, 0.002

PARTS_MS: dict[Part, float] = {"compute": 8.0, "communication": 3.0, "optimizer": 1.0}
"""Of a profiled step."""

_LAUNCHED: Counter[str] = Counter()
"""The launches so far of each case: a session makes a launcher for each round of each case."""


@dataclass(frozen=True, slots=True)
class FakeLauncher:
    """Implements case_run.Launcher. From the launch with number `confirm_from` on, launches confirm
    a verdict."""

    confirm_from: int

    def plan(self, request: TimedRequest) -> Any:
        """Nothing to decide."""
        return None

    def predict(self, request: TimedRequest) -> PredictedStep | None:
        """What the environment says; None where it says nothing of the framework."""
        milliseconds = _setting("FAKE_PREDICTED_MS").get(request.case.framework)
        return milliseconds and PredictedStep(compute_s=milliseconds / 1000)

    def prove(self, request: TimedRequest) -> Sequence[Correctness]:
        """Every rank's step is exact."""
        return [Correctness({"gradients": 0.0}, {"gradients": 1e-9})] * request.case.gpus

    def measure(self, request: TimedRequest) -> Launch:
        """The next launch of this case."""
        case = request.case
        number = _LAUNCHED[case.label]
        _LAUNCHED[case.label] += 1
        levels = _setting("FAKE_LEVELS")
        if number >= self.confirm_from:
            levels |= _setting("FAKE_AGAIN")
        disturbed = _setting("FAKE_DISTURBED").get(case.framework, {}).get(str(number))
        percent = disturbed or levels.get(case.framework, 100)
        noise = float(os.environ.get("FAKE_NOISE", "1")) * NOISE[number % len(NOISE)] / 1000
        reason = "other processes used 1.0 of 2 cores" if disturbed else None
        reports = _reports(request, STEP_S / (percent / 100) * (1 + noise), 1 + noise)
        return Launch(reports, Conditions(disturbed=reason))

    def yardstick(self) -> float | None:
        """As the environment says."""
        return YARDSTICK_S / (float(os.environ.get("FAKE_MACHINE", "100")) / 100)


CONFTEST = """
from tests.fake_launches import install

def pytest_configure(config):
    config.add_cleanup(install(3))
"""
"""Of a folder whose sessions have fake launches, of which the first three are a case's own."""


def install(confirm_from: int) -> Callable[[], None]:
    """Gives the sessions of this process fake launches, until the returned function is called.
    They need no fork server, so none is started."""
    before = Resources.launcher, ForkServer.start
    _LAUNCHED.clear()
    Resources.launcher = lambda self, ranks, spec: FakeLauncher(confirm_from)  # type: ignore[method-assign]
    ForkServer.start = lambda self: None  # type: ignore[method-assign]

    def put_back() -> None:
        Resources.launcher, ForkServer.start = before  # type: ignore[method-assign]

    return put_back


def _setting(name: str) -> dict[str, Any]:
    """An environment variable that holds JSON."""
    return dict(json.loads(os.environ.get(name, "{}")))


def _reports(request: TimedRequest, step_s: float, noise: float) -> tuple[RankReport, ...]:
    case = request.case
    own_ms = _setting("FAKE_OWN_MS").get(case.framework, [])
    update = case.batch_size * case.gpus if isinstance(case, Case) else 0
    reports = tuple(
        _report(rank, step_s, _steps(request), update, own_ms) for rank in range(case.gpus)
    )
    if not request.profiled:
        return reports
    parts_ms = PARTS_MS | _setting("FAKE_PARTS_MS").get(case.framework, {})
    profile = _profile({part: ms / 1e3 * noise for part, ms in parts_ms.items()})
    return tuple(replace(report, profile=profile) for report in reports)


def _profile(parts_s: dict[Part, float]) -> StepProfile:
    """Each part has one operator, called once."""
    operators = tuple(
        OperatorTime(part, f"fake::{part}", seconds, 1.0) for part, seconds in parts_s.items()
    )
    return StepProfile(5, sum(parts_s.values()), parts_s, operators)


def _steps(request: TimedRequest) -> int:
    """The number that was asked for; a window in seconds has as many steps as one on CPU ranks."""
    return request.steps if isinstance(request.steps, int) else TIMED_STEPS


def _report(
    rank: int, step_s: float, steps: int, samples: int, own_ms: Sequence[float]
) -> RankReport:
    ends = tuple(step_s * (number + 1) for number in range(steps))
    memory = int(float(os.environ.get("FAKE_MEMORY_MIB", "1024")) * 2**20)
    return RankReport(
        rank=rank,
        window_start_s=0.0,
        window_end_s=ends[-1],
        step_index=tuple(range(steps)),
        step_end_s=ends,
        step_samples=(8,) * steps,
        samples_per_update=samples,
        metrics={"allocated_peak_bytes": memory, "cached_peak_bytes": 2 * memory},
        loss=(2.3,) * steps,
        environment={"torch": os.environ.get("FAKE_TORCH", "2.13.0")},
        own_work_s=(own_ms[rank] / 1e3,) * (steps - 1) if own_ms else (),
    )
