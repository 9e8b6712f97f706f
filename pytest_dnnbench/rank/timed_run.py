"""A rank's timed run: warm-up, the timed steps, the report. The only code that reads a clock around
steps, of a framework or of a user's function.

    connect ─> build ─> warm-up ─> lead-in ─> align, synchronise ─┤ timed steps ├─> run-on ─> report
                        (runs of  └──────────────────── one run ───────────────────────────┘
                         their own)

Both live behind Stepper (worker.py) and never time themselves. Not here: the clock and the
peaks of the timed steps (timed_window.py), how many steps a warm-up has (warmup.py), the facts of
the environment (rank_facts.py).
"""

import math
import statistics
from dataclasses import dataclass, field, replace
from itertools import pairwise

# By name: a clock is taken before any code of the user can replace it in `time`.
from time import monotonic

import torch

from pytest_dnnbench.device_peaks import peak_flops
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import Correctness, Place, RankReport, RunRequest, TimedRequest
from pytest_dnnbench.metrics import COMPILE
from pytest_dnnbench.rank import gpu_yardstick, group, rank_phase
from pytest_dnnbench.rank.agreement import Agreement
from pytest_dnnbench.rank.breakdown.profiled_steps import profile_steps
from pytest_dnnbench.rank.precision import set_matmul_precision
from pytest_dnnbench.rank.rank_facts import environment
from pytest_dnnbench.rank.step_graph import EAGER

# Under its own name on purpose: a test replaces it here.
from pytest_dnnbench.rank.suspension import asleep_s as asleep_s
from pytest_dnnbench.rank.timed_window import Timing, Window, window_for
from pytest_dnnbench.rank.warmup import CPU, CUDA, Warmup, whole_turns
from pytest_dnnbench.rank.worker import Step, Stepper
from pytest_dnnbench.rank.worker_checks import (
    PACE_RUNS,
    PACE_TURNS,
    begun,
    figures,
    ran_ahead,
    seems_ahead,
    worker_kind,
)
from pytest_dnnbench.rank.workloads import model_flops
from pytest_dnnbench.run_length import seconds_of
from pytest_dnnbench.step_form import PLAIN

MOST_SAMPLES = 2**40
"""In one step of a rank: a terabyte, where bytes are counted. Eight million such steps can be added
up in eight bytes."""

_KEPT: list[Stepper] = []
"""Keeps a worker to the end of its process: Python must not tear down what it has of a process
group."""


def measure(place: Place, request: TimedRequest) -> RankReport:
    """Runs the case's warm-up and timed steps on this rank. Raises WrongResult when a loss is not
    finite."""
    worker = _worker(place, request)
    rank_phase.enter("group")
    worker.connect()
    rank_phase.enter("build")
    worker.build()
    asleep_before_s = asleep_s()
    window = window_for(torch.device(place.device), reads_energy=place.rank == 0)
    warmed = _warm_up(worker, window)
    worker.timed = range(warmed.lead, warmed.lead + warmed.timed_steps)
    run = _TimedRun(worker, window, worker.timed, warmed.steps, list(warmed.losses))
    timing = run.run()
    suspended_s = asleep_s() - asleep_before_s
    rank_phase.enter("report")
    step_s = (timing.end_s - timing.start_s) / len(run.to_time)
    report = _report(worker, run, timing, warmed, suspended_s)
    if isinstance(request, RunRequest) and request.recheck and (wrong := worker.recheck()):
        raise WrongResult(wrong)
    if warmed.step_s is not None:
        _check_pace(worker, window, step_s, warmed.step_s)
    if request.profiled:
        rank_phase.enter("breakdown")
        report = replace(report, profile=profile_steps(worker, window, step_s, request.traces))
    rank_phase.enter("teardown")
    worker.close()
    if request.yardstick and worker.device.type == "cuda":
        # After the close no rank needs its GPU for the case any more.
        report = replace(report, yardstick_s=gpu_yardstick.seconds(worker.device))
    return replace(report, began_s=rank_phase.began_s(), phases_s=rank_phase.seconds())


def _check_pace(worker: Stepper, window: Window, step_s: float, warm_step_s: float) -> None:
    """Raises WrongResult for timed steps whose work was done before the window. Every rank makes
    the runs that look into it, where the steps of any seem to be."""
    suspect = seems_ahead(step_s, warm_step_s)
    if not Agreement(worker.place, "pace").longest(float(suspect)):
        return
    fewest = whole_turns(max(1, worker.lead_in), worker.turn)
    lengths = [
        _bounded(steps, worker.most_steps) for steps in (fewest, fewest + PACE_TURNS * worker.turn)
    ]
    pairs = [[_ends_s(worker, window, steps) for steps in lengths] for _ in range(PACE_RUNS)]
    short_s, long_s = zip(*pairs, strict=True)
    if suspect and ran_ahead(short_s, long_s):
        raise WrongResult(
            f"a timed step took {step_s:.3g} s, and one of the warm-up, which is timed as a whole"
            f" run, {warm_step_s:.3g} s; of {PACE_RUNS} more runs the first step came the later the"
            " longer the run was: the timed steps ran before they were asked for; let the worker's"
            " run do each step when it is asked for the next one"
        )


def _ends_s(worker: Stepper, window: Window, steps: int) -> list[float]:
    """When this rank's steps of a run are complete, in seconds since its call."""
    start_s, ends_s = monotonic(), list[float]()
    for _ in begun(worker, steps):
        if not ends_s:
            window.settle()
        ends_s.append(monotonic() - start_s)
    window.settle()
    return [*ends_s[:-1], monotonic() - start_s]


def prove(place: Place, request: TimedRequest) -> Correctness:
    """Compares the step with its reference on this rank; nothing is timed."""
    worker = _worker(place, request)
    rank_phase.enter("group")
    worker.connect()
    rank_phase.enter("proof")
    correctness = worker.prove()
    if isinstance(request, RunRequest) and place.rank == 0:
        correctness = _with_flops(correctness, place, request)
    rank_phase.enter("teardown")
    worker.close()
    return correctness


def _with_flops(correctness: Correctness, place: Place, request: RunRequest) -> Correctness:
    """The proof, with the operations that a sample takes, where something follows from them."""
    if not place.device.startswith("cuda"):
        return correctness
    name = torch.cuda.get_device_properties(place.device).name
    if peak_flops(name, request.case.precision) is None:
        return correctness
    flops = model_flops.flops_per_sample(request)
    facts = {} if flops is None else {model_flops.FACT: flops}
    return replace(correctness, about={**correctness.about, **facts})


@dataclass(frozen=True, slots=True)
class _Warmed:
    """A rank after its warm-up in stretches, and what the timed run is to be.

    `steps` have run since `began_s`, with these losses; `lead` untimed steps and `timed_steps` are
    to come. `steady` is None where nobody looked: the number of steps was given. `first_s` is how
    long the very first step took, where that is compiled; `step_s` how long one of the last
    stretches took.
    """

    began_s: float
    lead: int
    timed_steps: int
    steps: int = 0
    losses: tuple[torch.Tensor, ...] = ()
    steady: bool | None = None
    first_s: float | None = None
    step_s: float | None = None


def _unlike_the_others(request: TimedRequest) -> int:
    """How many first steps are not as those that follow: that which is compiled, or those until a
    step is captured."""
    form = request.case.form if isinstance(request, RunRequest) else PLAIN
    if form.cuda_graph:
        return EAGER + 1
    return 1 if form.compile else 0


def _first_steps(worker: Stepper, window: Window, steps: int) -> tuple[float, list[torch.Tensor]]:
    """The first steps of all, in a run of their own: their seconds, and the losses where this rank
    sees them."""
    rank_phase.enter("warm-up", steps)
    start_s = monotonic()
    losses = [step.loss for step in begun(worker, steps) if step.loss is not None]
    window.settle()
    return monotonic() - start_s, losses


def _warm_up(worker: Stepper, window: Window) -> _Warmed:
    """Warms up until the request's lengths have become numbers of steps, the same on all ranks.
    Where both are numbers, the timed run itself begins with the warm-up."""
    warmup, timed, turn = worker.request.warmup, worker.request.steps, worker.turn
    window_s, began_s = seconds_of(timed), monotonic()
    took_s, losses = None, list[torch.Tensor]()
    if before := _unlike_the_others(worker.request):
        took_s, losses = _first_steps(worker, window, before)
    first_s = took_s if before == 1 else None
    if isinstance(warmup, int) and isinstance(timed, int):
        lead = whole_turns(max(warmup, worker.lead_in), turn)
        rank_phase.enter("warm-up", lead)
        steps = whole_turns(timed, turn)
        return _Warmed(began_s, lead, steps, before, tuple(losses), first_s=first_s)
    rank_phase.enter("warm-up")
    agreement = Agreement(worker.place)
    bounds = CUDA if worker.device.type == "cuda" else CPU
    plan = Warmup(warmup, bounds, turn, worker.lead_in, measured=window_s is not None)
    agreement.longest(0.0)  # ranks that wait for a late one must not take that for a slow step
    while steps := plan.next_stretch():
        start_s = monotonic()
        for step in begun(worker, steps):
            rank_phase.step(plan.steps + step.index + 1)
            if step.loss is not None:
                losses.append(step.loss)
        window.settle()
        plan.ran(steps, agreement.longest(monotonic() - start_s))
    return _Warmed(
        began_s,
        # A step at least: it holds what a run does before its first one.
        lead=whole_turns(max(1, worker.lead_in), turn),
        timed_steps=whole_turns(timed, turn)
        if isinstance(timed, int)
        else _bounded(plan.timed_steps(window_s or 0.0), worker.most_steps),
        steps=before + plan.steps,
        losses=tuple(losses),
        steady=plan.was_steady,
        first_s=first_s,
        step_s=plan.step_s,
    )


def _bounded(steps: int, most: int | None) -> int:
    return steps if most is None else min(steps, most)


@dataclass(slots=True)
class _TimedRun:
    """The steps of a run as the worker completes them, and the window around the timed ones.

    Step indices count over the whole job and from the begin of this run, of which `to_time` are
    timed. A rank whose framework takes turns completes every `stride`-th of them. Here to_time is
    3 .. 6, and the worker runs on for 2 steps, so that its last timed steps are not timed in an
    emptying pipeline:

                           lead-in   │ timed         │ run on
        index              0   1   2 │ 3   4   5   6 │ 7   8         ▶ opens   ◼ closes
        rank, stride 1     •   •   • ▶ •   •   •   • ◼ •   •         [1]
        rank, stride 3     • ▶         •           • ◼               [1]
        rank, stride 3         • ▶         • ◼         •             [1]
        rank, stride 9   ▶                                 • ◼       [0] [2]

    The window opens after the last untimed step of this rank; [0] before the first step, where the
    rank has no untimed step of its own. It closes in one of three places:

        [1] after the last timed step of this rank, before a further step can begin
        [2] at the first step of the run-on, where the rank had no timed step to close at
        [3] after the run, where neither came
    """

    worker: Stepper
    window: Window
    to_time: range
    steps_before: int
    losses: list[torch.Tensor]
    timed: list[Step] = field(default_factory=list)
    _samples: int = 0
    _timing: Timing | None = None

    def run(self) -> Timing:
        self.window.begin()
        if self.to_time.start < self.worker.stride:  # [0]
            self._open()
        for step in begun(self.worker, self.to_time.stop + self.worker.run_on):
            if step.index >= self.to_time.stop:
                self._close()  # [2]
                continue
            # The loss of every step counts, warm-up included: that is how a run is compared.
            if step.loss is not None:
                self.losses.append(step.loss)
            if step.index < self.to_time.start:
                self._warmed_up(step)
            else:
                self._time(step)
        return self._close()  # [3]

    def _warmed_up(self, step: Step) -> None:
        rank_phase.step(self.steps_before + step.index + 1)
        if step.index + self.worker.stride >= self.to_time.start:
            self._open()

    def _time(self, step: Step) -> None:
        # The mark comes first: what follows must not count as part of the step.
        self.window.mark()
        self.worker.own_work.step_done()
        self.timed.append(step)
        self._samples += _checked_count(step.samples)
        rank_phase.step(step.index + 1 - self.to_time.start, self._samples)
        if step.index + self.worker.stride >= self.to_time.stop:
            self._close()  # [1]

    def _open(self) -> None:
        self.worker.align()
        rank_phase.enter("timed steps", len(self.to_time))
        self.window.open()
        self.worker.own_work.restart()

    def _close(self) -> Timing:
        """Closes the window the first time, and gives that time's figures ever after."""
        self._timing = self._timing or self.window.close()
        return self._timing


def _report(
    worker: Stepper, run: _TimedRun, timing: Timing, warmed: _Warmed, suspended_s: float
) -> RankReport:
    # Before the validation, which is a run as well: they are about the timed one.
    metrics = {**timing.peaks, **figures(worker)}
    if warmed.first_s is not None:
        ends_s = (timing.start_s, *timing.step_ends_s)
        usual_s = statistics.median(end - begin for begin, end in pairwise(ends_s))
        metrics[COMPILE] = warmed.first_s - usual_s
    return RankReport(
        rank=worker.place.rank,
        window_start_s=timing.start_s,
        window_end_s=timing.end_s,
        step_index=tuple(step.index - run.to_time.start for step in run.timed),
        step_end_s=timing.step_ends_s,
        step_samples=tuple(step.samples for step in run.timed),
        own_work_s=worker.own_work.seconds(),
        sample=worker.sample,
        shared_samples=worker.shared_samples,
        bus_factor=worker.bus_factor,
        samples_per_update=worker.samples_per_update,
        page_faults=timing.page_faults,
        cpu_energy_j=timing.cpu_energy_j,
        loss=_finite(_numbers(run.losses)),
        validation=worker.validation(),
        data=worker.data_facts(),
        environment=environment(worker.place),
        metrics=metrics,
        details=worker.details(),
        pipeline=worker.pipeline_facts(),
        # Of one rank there is nothing to compare it with, and its weights may take long to hash.
        fingerprint=worker.fingerprint() if worker.place.world_size > 1 else "",
        suspended_s=suspended_s,
        warmup_steps=warmed.steps + run.to_time.start,
        warmup_s=timing.start_s - warmed.began_s,
        steady=warmed.steady,
        clock_s=timing.clock_s,
    )


def _worker(place: Place, request: TimedRequest) -> Stepper:
    kind = worker_kind(request.worker)
    rank_phase.enter("device")
    group.take_place(place)
    if isinstance(request, RunRequest) and place.device.startswith("cuda"):
        set_matmul_precision(request.case.precision)
        torch.backends.cudnn.benchmark = request.case.form.cudnn_benchmark
    worker = kind(place, request)
    _KEPT.append(worker)
    return worker


def _checked_count(samples: int) -> int:
    """A step's samples. Raises UsageError for what is no count, or for one so large that a sum
    of them does not fit into eight bytes."""
    if isinstance(samples, int) and 0 <= samples <= MOST_SAMPLES:
        return samples
    # Python refuses to print a number of very many digits.
    large = isinstance(samples, int) and samples > MOST_SAMPLES
    raise UsageError(
        f"a step counts {'too many' if large else repr(samples)} samples: let each count a whole"
        f" number from 0 to {MOST_SAMPLES:,}"
    )


def _numbers(losses: list[torch.Tensor]) -> list[float]:
    """The losses of all steps, brought to the host together: one by one, each waits for the GPU."""
    if len({(loss.dtype, loss.device, loss.shape) for loss in losses}) == 1:
        return [float(value) for value in torch.stack(losses).flatten().tolist()]
    return [float(value) for value in losses]


def _finite(losses: list[float]) -> tuple[float, ...]:
    for index, value in enumerate(losses):
        if not math.isfinite(value):
            raise WrongResult(
                f"the loss of step {index} is {value}: the run diverged, so its speed means"
                " nothing; lower the learning rate or check the model",
                step=index,
            )
    return tuple(losses)
