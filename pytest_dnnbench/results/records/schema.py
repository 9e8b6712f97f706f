"""The types of a saved file: the record of a measured case, which stands in pytest-benchmark's JSON
under extra_info["dnnbench"], and the entry of its session.

One set of types: a case's record is built as these structs, written as their JSON, read back, judged
and reported as the same structs. docs/schema.md and docs/schema.json are generated from here.
"""

from typing import Any, Literal

import msgspec

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.metrics import Better
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.results.records.verdict import Verdict
from pytest_dnnbench.results.statistics.noise import Noise

SCHEMA = 1
"""Of a record and of the session's entry in the same file. History: 1, the first."""


class RunFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a case was run, beside what the case itself says.

    `sample` is the unit of a sample: img, tok or sample. `samples_per_update`: samples over all
    ranks that one update of the weights averages over. `oversubscribed`: more ranks than cores.
    `data`: what a rank tells of the data that it reads. `parallel`: timed beside other cases.
    """

    sample: str
    samples_per_update: int
    oversubscribed: bool
    steps: int
    warmup: int
    data: dict[str, Scalar]
    parallel: bool = False


class MetricEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One metric: its value is the median over the launches.

    `per_rank`: each rank's median over the launches, where ranks differ. `disturbed`: of a quotient
    of two cases' launches, why each was disturbed, or None.
    """

    value: float
    unit: str
    better: Better
    per_launch: list[float]
    per_rank: list[float] = []
    disturbed: list[str | None] = []


class GpuState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What NVML said of one GPU; a figure that this GPU or driver does not have is left out."""

    processes: list[int] | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttled_by: list[str] | None = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """In which one launch ran: on which devices, beside what, and in what state these were.

    `disturbed`: the reason why the launch tells little of the case, or None. `others_cores`: the
    load of other processes, in cores. `gpu_before` and `gpu_after`: by UUID, before the ranks
    start and while they still hold their GPUs. `discarded_as_suspended`: launches before this one
    in which the machine slept. `yardstick_s`: seconds of the machine's yardstick afterwards.
    """

    disturbed: str | None = None
    others_cores: float | None = None
    cores: tuple[int, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    gpu_before: dict[str, GpuState] = {}
    gpu_after: dict[str, GpuState] = {}
    discarded_as_suspended: int = 0
    yardstick_s: float | None = None


class LaunchEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One launch: raw samples of its timed steps, in order.

    `loss`: of every step, warm-up included. `rank_wall_s`, `page_faults`: of each rank, in its timed
    window. `own_work_s`: per rank, the quartiles over the steps of the seconds of a step for which
    it needs no other rank; empty where not all of several ranks tell.
    """

    step_time_s: list[float]
    loss: list[float]
    rank_wall_s: list[float]
    page_faults: list[int]
    own_work_s: list[list[float]] = []
    conditions: Conditions = Conditions()


class LimitEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that this run holds a later one to.

    `relative` is signed, -0.05: fails when 5% lower; `absolute` and `limit`, the figure at which
    the later run fails, are in the metric's unit. `source` says who set it.
    """

    limit: float | None = None
    relative: float | None = None
    absolute: float | None = None
    source: str = "default"


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What must be alike before two runs are compared, and what is only recorded."""

    must_match: dict[str, Scalar | None]
    recorded: dict[str, Scalar | None] = {}


class CorrectnessEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked about the step before it was timed, with the largest deviation seen by kind
    and the one allowed. `about` says how it was checked."""

    checked: list[str] = []
    largest_deviation: dict[str, float] = {}
    tolerance: dict[str, float] = {}
    ranks_agree: str = ""
    about: dict[str, Scalar] = {}


class PlannedRank(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of a pipeline. `peak_bytes`: the largest over the launches, of the device's allocator
    or, on a CPU, of the whole process; `planned_memory_bytes` counts weights, activations, gradients
    and momentum only."""

    stage: int
    replica: int
    versions_kept: int
    version_bytes: int
    stash_bytes: int
    planned_memory_bytes: float
    peak_bytes: float | None


class PlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a pipeline case: what was decided, what it promised, what came of it.

    `bandwidth_bytes_s` and `profile_parts_over_whole` are None where a plan was given.
    """

    plan: Plan
    shape: str
    parallelism: Literal["data", "pipeline"]
    decided_by: Literal["user", "planner"]
    bandwidth_bytes_s: float | None
    profile_parts_over_whole: float | None
    predicted_step_time_s: float
    predicted_data_parallel_step_time_s: float
    measured_step_time_s: float
    ranks: list[PlannedRank]


class LaunchPlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    """With `--dnn-launches auto`: the change to detect, the launches planned for the session, and
    those that this case needs (None: no number is enough). `stored`: the baseline has the case."""

    effect: float
    metric: str
    launches: int
    needed: int | None
    stored: bool


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the summary says of the case; a worker of pytest-xdist has no summary of its own."""

    kind: str
    text: str


class Record(msgspec.Struct, kw_only=True):
    """A measured case. Speed-up is added when the session's other cases are there; thresholds and
    verdict when it is judged.

    `details`: per rank, the framework's own facts. `noise`: what a calibration learnt, by metric.
    """

    schema: int
    case: Case
    run: RunFacts
    metrics: dict[str, MetricEntry]
    launches: list[LaunchEntry]
    environment: Environment
    correctness: CorrectnessEntry
    thresholds: dict[str, LimitEntry] = {}
    plan: PlanEntry | None = None
    details: list[dict[str, Any]] = []
    verdict: Verdict = Verdict()
    launch_plan: LaunchPlanEntry | None = None
    noise: dict[str, Noise] = {}
    notes: list[Note] = []


class Acceptance(msgspec.Struct, frozen=True):
    """Who took a session as the baseline although something in it failed or regressed, when, and
    why."""

    who: str
    when: str
    why: str


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved file says of its session as a whole, under its key "dnnbench"."""

    schema: int
    failed: list[str] = []
    interrupted: bool = False
    accepted: Acceptance | None = None
