"""The types of a saved file: the record of a measured case, which pytest-benchmark's JSON holds
under extra_info["dnnbench"], and the entry of its session.

One set of types: a case's record is built as these structs, written as their JSON, read back,
judged and reported as the same structs. Their docstrings document the file: `dnnbench schema`
prints them, and docs/schema.md and docs/schema.json are its output. Not here: how a record is made
(record.py), how a file is read (saved.py).
"""

from typing import Any, Literal

import msgspec

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import FunctionCase, MeasuredCase
from pytest_dnnbench.metrics import Better
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.planner.remarks import SUM_TOLERANCE
from pytest_dnnbench.results.records.launches import Launches, launches_of
from pytest_dnnbench.results.records.preflight import PreflightEntry
from pytest_dnnbench.results.records.profile_entry import BreakdownEntry, WhyEntry
from pytest_dnnbench.results.records.side_by_side import OtherSide
from pytest_dnnbench.results.records.verdict import Verdict
from pytest_dnnbench.results.statistics.noise import Noise

# gc=False: no struct here is ever part of a cycle, and a storage holds 100,000 records.

SCHEMA = 1
"""The version of records and of the session's entry in a saved file. History: 1, the first."""


class RunFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a case was run, beyond what the case itself says.

    `sample` is the unit of a sample: img, tok, sample, step or B. `samples_per_update` counts the
    samples, over all ranks, that one update of the weights averages; of a collective it is the size
    in bytes, of another function 0. `oversubscribed`: more ranks than cores, or than GPUs. `steps`
    and `warmup` are what was asked for: how many steps were to be timed and how many to be run
    before, or for how many seconds, as "5s"; a warm-up "auto" lasts until steps take equally long.
    What came of it is in each launch. `data` describes the data that a rank reads. `parallel`:
    timed beside other cases.
    """

    sample: str
    samples_per_update: int
    oversubscribed: bool
    steps: int | str
    warmup: int | str
    data: dict[str, Scalar]
    parallel: bool = False


class MetricEntry(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One metric: `per_launch` has one figure per launch, and `value` is the median of those whose
    launch was not disturbed.

    Where fewer than two launches, or fewer than half of them, are undisturbed, the case has no
    figure, and `value` must not be shown as one. `per_rank` holds each rank's median over the
    launches, where ranks differ. `disturbed` is there for a quotient of two cases' launches only:
    for each launch, why one of the two was disturbed, or null.
    """

    value: float
    unit: str
    better: Better
    per_launch: list[float]
    per_rank: list[float] = []
    disturbed: list[str | None] = []


class GpuState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What NVML reported of one GPU. A figure that this GPU or driver does not have is left out."""

    processes: list[int] | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttled_by: list[str] | None = None


class NodeConditions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One node of a launch over nodes: how many of the ranks ran there, in order; the `cores` that
    they leased and the load of other processes. Of several nodes, `interface` is the one that leads
    to the others, and `network_mbit_s` its nominal speed, null where the kernel gives none.

    `clock_offset_s` is the node's monotonic clock minus the controller's during the launch, and
    `clock_uncertainty_s` how far that may be off. The times in the record are by the controller's
    clock. `skew` is the own work of the node's ranks in a step over that of all ranks, medians,
    minus 1: above zero for a node that the others wait for; null where ranks do not report it.
    """

    name: str
    ranks: int
    cores: tuple[int, ...] = ()
    others_cores: float | None = None
    clock_offset_s: float = 0.0
    clock_uncertainty_s: float = 0.0
    interface: str = ""
    network_mbit_s: int | None = None
    skew: float | None = None


class GpuWindow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One GPU during the timed window, from `samples` readings of NVML in it: medians of power,
    utilisation (of the time, 0 to 1), clock and temperature.

    `energy_j` is from NVML's counter, between its readings before and after each end of the window;
    left out for a window shorter than a second. `throttled_s` are the seconds for which the GPU was
    slowed down, by reason, above zero. A figure that this GPU or driver does not have is left out.
    """

    samples: int = 0
    energy_j: float | None = None
    power_w: float | None = None
    utilisation: float | None = None
    sm_clock_mhz: float | None = None
    temperature_c: float | None = None
    throttled_s: dict[str, float] = {}


class Conditions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The conditions of one launch: its devices, their state, and what else used them.

    `disturbed` is the reason why the launch says little about the case, or null. `others_cores` is
    the load of other processes, in cores. `cores` and `gpu_uuids` are the devices that the launch
    leased; `rank_cores` are the cores near its GPU that each rank was pinned to, empty where none
    was. `gpu_before` and `gpu_after` map UUIDs to states, before the ranks start and while they
    still hold their GPUs; the power before is that of idle GPUs. `gpu_window` maps UUIDs to what
    was read during the timed window. `discarded_as_suspended` counts the launches before this one
    in which the machine slept. `yardstick_s` is how long the machine's yardstick took after the
    launch: of the cores, or of the launch's GPUs the slowest one's; of several nodes, the slowest
    one's. `nodes` are there for a launch on nodes, the
    leading one first; the leased cores are then given for each of them. `phases_s` says where the
    time of the launch went: seconds by phase of the rank that reported last, with "fork" before it
    ran and "end" after the last report, until ranks and devices were free.
    """

    disturbed: str | None = None
    others_cores: float | None = None
    cores: tuple[int, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    rank_cores: tuple[tuple[int, ...], ...] = ()
    gpu_before: dict[str, GpuState] = {}
    gpu_after: dict[str, GpuState] = {}
    gpu_window: dict[str, GpuWindow] = {}
    discarded_as_suspended: int = 0
    yardstick_s: float | None = None
    nodes: list[NodeConditions] = []
    phases_s: dict[str, float] = {}


class LaunchEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One launch: the raw seconds of its timed steps, in order.

    `loss` is that of every step, warm-up included. `rank_wall_s` and `page_faults` are those of
    each rank in its timed window. `own_work_s` holds, for each rank, three quartiles over the
    steps: the seconds of a step for which the rank needs no other; it is empty unless several ranks
    ran and all of them report it. `warmup_steps` of the whole job came before the window, in
    `warmup_s` seconds of the slowest rank. `steady` says whether steps took equally long at the end
    of the warm-up; it is null where the warm-up's length was given and left nothing to compare.
    """

    step_time_s: list[float]
    loss: list[float]
    rank_wall_s: list[float]
    page_faults: list[int]
    own_work_s: list[list[float]] = []
    conditions: Conditions = Conditions()
    warmup_steps: int = 0
    warmup_s: float = 0.0
    steady: bool | None = None


class LimitEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The limit of one metric that this run sets for later ones.

    `relative` is signed: with -0.05 a later run fails when it is 5% lower. `absolute` is a bound
    that the user set, and `limit` the figure at which a later run fails; both are in the metric's
    unit. `source` says who set it.
    """

    limit: float | None = None
    relative: float | None = None
    absolute: float | None = None
    source: str = "default"


class Environment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Facts of machine and software: those that must be alike before two runs are compared, and
    those that are only recorded."""

    must_match: dict[str, Scalar | None]
    recorded: dict[str, Scalar | None] = {}


class CorrectnessEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The check of the training step before anything was timed.

    `checked` lists what was compared with the reference; `largest_deviation` and `tolerance` have
    one figure for each. `ranks_agree` says how exactly all ranks hold the same values. `about`
    describes how the check was made. `took_s` are its seconds, from the request for its ranks until
    the last has answered; null in files of earlier versions and where nothing was checked.
    """

    checked: list[str] = []
    largest_deviation: dict[str, float] = {}
    tolerance: dict[str, float] = {}
    ranks_agree: str = ""
    about: dict[str, Scalar] = {}
    took_s: float | None = None


class PlannedRank(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of a pipeline.

    `versions_kept` counts the versions of its weights, each of `version_bytes`; `stash_bytes` is
    the size of all but the newest. `peak_bytes` is the largest over the launches: of the device's
    allocator or, on a CPU, of the whole process. `planned_memory_bytes` counts weights,
    activations, gradients and momentum only.
    """

    stage: int
    replica: int
    versions_kept: int
    version_bytes: int
    stash_bytes: int
    planned_memory_bytes: float
    peak_bytes: float | None


class PlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a pipeline case: what was decided, what it predicted, and what was measured.

    `shape` has the replicas of each stage, as in 2-1. `bandwidth_bytes_s` and
    `profile_parts_over_whole`, the sum of the profiled operators' times over the time of the whole
    model, are null where a plan was given.
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


class CollectiveEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one collective over all ranks of a case took before its launches: `fixed_s`, and the
    bytes of the whole tensor at `bytes_s` per second."""

    fixed_s: float
    bytes_s: float


class PredictionEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step was predicted to take, beside what it took. Of a pipeline the prediction is its
    plan's; of other frameworks it is there where --dnn-predict asked for it.

    `measured_step_time_s` is as in the plan of a pipeline: the mean over the steps, the median over
    the launches. `error` is measured over predicted, less 1: 0.1 where the step took 10% longer.
    `throughput` is the predicted one, in the unit of the measured. Of data parallelism, a step is
    `compute_s` of forward and backward pass, `exposed_s` of communication that no compute hides
    (`overlaps`: whether compute hides any), and `update_s`; `memory_bytes` is that of a rank.
    `profile_parts_over_whole` is far from 1 where the profile was taken on a busy machine.
    `runtime_s`, of torch's schedules on CPU ranks, is what torch's runtime takes itself with each
    pass: the prediction has it in every one. `collectives` are those of GPU ranks: on CPU ranks the
    framework's step is timed as a whole. `refused` says why there is no prediction; all else is
    then left out. `asked` is whether --dnn-predict asked: the plan of a pipeline predicts all the
    same.
    """

    asked: bool = False
    step_time_s: float | None = None
    measured_step_time_s: float | None = None
    error: float | None = None
    throughput: float | None = None
    compute_s: float | None = None
    exposed_s: float | None = None
    update_s: float | None = None
    memory_bytes: float | None = None
    overlaps: bool | None = None
    collectives: dict[str, CollectiveEntry] = {}
    profile_parts_over_whole: float | None = None
    runtime_s: float | None = None
    refused: str = ""

    @property
    def has_doubtful_profile(self) -> bool:
        """Whether the parts of the profile disagree with the whole."""
        ratio = self.profile_parts_over_whole
        return ratio is not None and abs(ratio - 1) > SUM_TOLERANCE


class LaunchPlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The launches that `--dnn-launches auto` planned.

    `effect` is the change of `metric` to detect, a fraction. `launches` is the number for the whole
    session, `needed` the number for this case; null: no number is enough. `stored`: the baseline
    has the case.
    """

    effect: float
    metric: str
    launches: int
    needed: int | None
    stored: bool


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A line about the case for the summary at the end of the session."""

    kind: str
    text: str


class Record(msgspec.Struct, kw_only=True, gc=False):
    """A measured case: a step of training or validation (`case`), or a function of the user's
    (`function`); the other of the two is null.

    Speed-up is added once the session has measured `single`; `thresholds` and `verdict` when the
    case is judged. `details` holds, for each rank, the framework's own facts. `noise` is what a
    calibration learnt, by metric. `notes` are lines for the session's summary. `against` is what
    became of the case in the other environment of --dnn-against. `prediction` is what its step was
    predicted to take. `breakdown` is there where steps
    were profiled, `why` where a case regressed whose baseline has a breakdown.
    """

    schema: int
    case: Case | None
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
    breakdown: BreakdownEntry | None = None
    why: WhyEntry | None = None
    function: FunctionCase | None = None
    against: OtherSide | None = None
    prediction: PredictionEntry | None = None

    def __post_init__(self) -> None:
        if (self.case is None) == (self.function is None):
            raise UsageError("a record is about a case or about a function: give one of the two")

    @property
    def measured_case(self) -> MeasuredCase:
        """What was measured."""
        measured = self.case or self.function
        assert measured is not None, "checked above"
        return measured

    @property
    def trained_case(self) -> Case:
        """The case of a record that is about training or validation."""
        assert self.case is not None, "asked of such records only"
        return self.case

    @property
    def reasons(self) -> list[str | None]:
        """Why each launch was disturbed, or None. Launches of a confirmation are not among them."""
        return [launch.conditions.disturbed for launch in self.launches]

    def measured(self, metric: str) -> Launches:
        """A metric's value in each launch and why the launch was disturbed, launches of a
        confirmation included."""
        entry, confirmation = self.metrics[metric], self.verdict.confirmation
        if self._is_plain(entry):
            return Launches(tuple(entry.per_launch))
        first = launches_of(metric, entry.per_launch, entry.disturbed or self.reasons)
        if confirmation is None or metric not in confirmation.per_launch:
            return first
        fresh = launches_of(metric, confirmation.per_launch[metric], confirmation.disturbed)
        return first.followed_by(fresh)

    def undisturbed(self, metric: str) -> list[float]:
        """The metric's values in the launches that were not disturbed."""
        entry = self.metrics[metric]
        if self._is_plain(entry):
            return entry.per_launch
        return list(self.measured(metric).undisturbed)

    @property
    def disturbed(self) -> bool:
        """Whether every launch was disturbed, those of a confirmation included."""
        confirmation = self.verdict.confirmation
        reasons = [*self.reasons, *(confirmation.disturbed if confirmation else ())]
        return bool(reasons) and None not in reasons

    def _is_plain(self, entry: MetricEntry) -> bool:
        # Nearly every record is: no confirmation, nothing disturbed. A storage holds 100,000
        # entries, and wrapping each takes longer than reading it.
        if self.verdict.confirmation is not None or entry.disturbed:
            return False
        for launch in self.launches:  # noqa: SIM110 - a generator would take three times as long
            if launch.conditions.disturbed:
                return False
        return True


class Acceptance(msgspec.Struct, frozen=True):
    """Who accepted a session as a baseline although something in it failed or regressed, when, and
    why."""

    who: str
    when: str
    why: str


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A saved file's entry of its session, under the key "dnnbench". `failed` lists the tests that
    failed, by their node ids. `preflight` is there for a session over several nodes."""

    schema: int
    failed: list[str] = []
    interrupted: bool = False
    accepted: Acceptance | None = None
    preflight: PreflightEntry | None = None


class ExtraInfo(msgspec.Struct, frozen=True, gc=False):
    """What pytest-benchmark keeps for plugins; a benchmark of another kind has no record."""

    dnnbench: Record | None = None


class SavedBenchmark(msgspec.Struct, frozen=True, gc=False):
    """One benchmark in pytest-benchmark's file; its own statistics are left out here."""

    fullname: str
    extra_info: ExtraInfo


class SavedFile(msgspec.Struct, frozen=True):
    """The parts of pytest-benchmark's file that pytest-dnnbench writes and reads. `datetime` is
    when the session was saved, in UTC."""

    benchmarks: list[SavedBenchmark]
    datetime: str
    dnnbench: SessionEntry | None = None
