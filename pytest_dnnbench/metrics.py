"""The metrics of a record: one row says everything about one of them. A leaf.

To add a metric: a row here, or a hook `pytest_dnnbench_metrics` in a package of one's own, and a
worker that reports the figure by the row's name (`Worker.metrics`). Nothing else has to know.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.row_fields import check_fields

Better = Literal["higher", "lower"]
OverRanks = Literal["job", "max", "mean", "sum"]

_BYTES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_BYTES_PER_S = {f"{unit}/s": factor for unit, factor in _BYTES.items()}
# What torch's allocator asks of CUDA at a time (kSmallBuffer, kLargeBuffer of its
# CUDACachingAllocator): whether one more of them is needed depends on the order of requests.
_SMALL_SEGMENT, _LARGE_SEGMENT = 2 * _BYTES["MiB"], 20 * _BYTES["MiB"]
_SECONDS = {"ms": 1e-3, "us": 1e-6}
_FRACTION = {"%": 0.01}
_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "job": statistics.fmean,  # a single figure, the job's own
    "max": max,
    "mean": statistics.fmean,
    "sum": math.fsum,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured quantity.

    unit            of the stored figure; a record has the case's own sample in it: img/s, tok/s
    better          which way is better
    label           its name for people; the name itself without one
    over_ranks      how the ranks' figures of one launch become the job's; "job": it is measured of
                    the job as a whole and no rank has one
    tolerance       the default limit of a change for the worse, as a fraction; None: no limit
    timed           other work on the same devices changes it
    positive        no measurement gives zero or less: such a figure is an error
    exact           the same program gives the same figure every time, as bytes of an allocator
    granularity     in the metric's unit: differences up to this one are the luck of one session,
                    and no relative limit is smaller
    kept            a golden file keeps it even without a limit
    scales          other units in which a limit may be written, each in the metric's own
    devices         the kinds of device whose ranks can have it
    phases          the phases that can have it

    For a time the tolerance is the smallest interesting effect: noise may allow no limit as small,
    and a change is detected reliably only when it is clearly larger, so 3% is what detects 5%.
    """

    name: str
    unit: str
    better: Better
    label: str = ""
    over_ranks: OverRanks = "job"
    tolerance: float | None = None
    timed: bool = False
    positive: bool = False
    exact: bool = False
    granularity: float = 0.0
    kept: bool = False
    scales: Mapping[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cuda", "cpu")
    phases: tuple[str, ...] = ("train", "validate")

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise UsageError(
                f"metric {self.name}: better is {self.better!r}: write 'higher' or 'lower'"
            )
        if self.over_ranks not in _REDUCTIONS:
            raise UsageError(
                f"metric {self.name}: over_ranks is {self.over_ranks!r}:"
                f" choose from {', '.join(_REDUCTIONS)}"
            )
        check_fields(self)
        if not self.name.isidentifier():
            raise UsageError(f"metric {self.name!r}: a name has letters, digits and underscores")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise UsageError(
                f"metric {self.name}: tolerance {self.tolerance} is not between 0 and 1"
            )

        if self.granularity < 0:
            raise UsageError(f"metric {self.name}: granularity {self.granularity} is negative")

    @property
    def title(self) -> str:
        """The metric's name for people."""
        return self.label or self.name

    def unit_of(self, sample: str) -> str:
        """The unit of a case whose sample is an img, a tok or a sample: img/s of throughput."""
        return self.unit.replace("sample", sample)

    def impossible(self, value: float) -> str | None:
        """Why no measurement can give this value; None where it can."""
        if not math.isfinite(value):
            return f"{self.name} is {value!r}, and a figure is finite"
        if not can_be_measured(value):
            return f"{self.name} is {value!r}, which is not a figure that can be measured"
        if self.positive and value <= 0:
            return f"{self.name} is {value!r}, and it is always above zero"
        return None

    def over_all(self, ranks: Sequence[float]) -> float:
        """The job's figure of one launch, from what its ranks report; at least one does."""
        return _REDUCTIONS[self.over_ranks](ranks)


THROUGHPUT = "throughput"
LOSS = "loss"
COMPILE = "compile_s"
YARDSTICK = "yardstick_s"
"""Not of the case but of the machine: a fixed workload (rank/yardstick.py, gpu_yardstick.py)."""

RATE_UNITS = ("sample/s", "img/s", "tok/s", "step/s", "B/s")
MFU = "mfu"
ALGORITHM_BANDWIDTH, BUS_BANDWIDTH = "algorithm_bandwidth", "bus_bandwidth"

BUILT_IN = (
    Metric(
        THROUGHPUT,
        "sample/s",
        "higher",
        "throughput",
        tolerance=0.03,
        timed=True,
        positive=True,
        scales=dict.fromkeys(RATE_UNITS, 1.0),
    ),
    Metric(
        "step_time_s",
        "s",
        "lower",
        "step time",
        tolerance=0.03,
        timed=True,
        positive=True,
        scales=_SECONDS,
    ),
    # No limit by default: both say what throughput says of the same function, which has one.
    Metric(
        ALGORITHM_BANDWIDTH,
        "B/s",
        "higher",
        "algorithm bandwidth",
        timed=True,
        positive=True,
        scales=_BYTES_PER_S,
    ),
    Metric(
        BUS_BANDWIDTH,
        "B/s",
        "higher",
        "bus bandwidth",
        timed=True,
        positive=True,
        scales=_BYTES_PER_S,
    ),
    Metric(
        MFU,
        "1",
        "higher",
        "MFU",
        timed=True,
        positive=True,
        scales=_FRACTION,
        devices=("cuda",),
    ),
    Metric(
        "energy_per_sample_j",
        "J/sample",
        "lower",
        "energy",
        timed=True,
        positive=True,
        kept=True,
    ),
    Metric(
        "allocated_peak_bytes",
        "B",
        "lower",
        "memory allocated, peak",
        over_ranks="max",
        tolerance=0.01,
        exact=True,
        granularity=_SMALL_SEGMENT,
        scales=_BYTES,
        devices=("cuda",),
    ),
    Metric(
        "cached_peak_bytes",
        "B",
        "lower",
        "memory cached, peak",
        over_ranks="max",
        tolerance=0.05,
        exact=True,
        granularity=_LARGE_SEGMENT,
        scales=_BYTES,
        devices=("cuda",),
    ),
    Metric(
        "parameter_bytes",
        "B",
        "lower",
        "parameters held by a rank",
        over_ranks="max",
        exact=True,
        scales=_BYTES,
    ),
    Metric(
        "optimiser_bytes",
        "B",
        "lower",
        "optimiser's state held by a rank",
        over_ranks="max",
        exact=True,
        scales=_BYTES,
    ),
    Metric(
        "resident_peak_bytes",
        "B",
        "lower",
        "memory resident, peak",
        over_ranks="max",
        tolerance=0.10,
        scales=_BYTES,
        devices=("cpu",),
    ),
    Metric("speedup", "x", "higher", "speed-up", timed=True, positive=True, kept=True),
    Metric(
        "scaling_efficiency",
        "1",
        "higher",
        "efficiency",
        timed=True,
        positive=True,
        kept=True,
        scales=_FRACTION,
    ),
    Metric(
        "efficiency_within_node",
        "1",
        "higher",
        "efficiency within a node",
        timed=True,
        positive=True,
        kept=True,
        scales=_FRACTION,
    ),
    Metric(
        "efficiency_across_nodes",
        "1",
        "higher",
        "efficiency across nodes",
        timed=True,
        positive=True,
        kept=True,
        scales=_FRACTION,
    ),
    Metric(
        "bubble_fraction",
        "1",
        "lower",
        "bubble",
        over_ranks="mean",
        timed=True,
        scales=_FRACTION,
        phases=("train",),
    ),
    Metric(
        "bubble_fraction_ideal",
        "1",
        "lower",
        "bubble, ideal",
        over_ranks="mean",
        scales=_FRACTION,
        phases=("train",),
    ),
    Metric(
        YARDSTICK,
        "s",
        "lower",
        "yardstick",
        timed=True,
        positive=True,
        kept=True,
        scales=_SECONDS,
    ),
    Metric(COMPILE, "s", "lower", "compile time", over_ranks="max", timed=True, scales=_SECONDS),
    Metric(LOSS, "nat", "lower", "loss after the last step", phases=("train",)),
    Metric(
        "validation_accuracy",
        "1",
        "higher",
        "validation accuracy",
        scales=_FRACTION,
        phases=("train",),
    ),
)

LARGEST, SMALLEST = 1e18, 1e-18
"""No measured figure is larger, or nearer to zero, in any unit; all logarithms and quotients of two
figures between them are finite."""


def can_be_measured(value: float) -> bool:
    """Whether a figure is zero, or of a size that is measured."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def are_ordinary(values: Sequence[float]) -> bool:
    """Whether all of these figures can be measured and are above zero: nearly all are, and this is
    the fast way to know it. At least one value."""
    # The sum, for a NaN may be neither the smallest nor the largest.
    return min(values) >= SMALLEST and max(values) <= LARGEST and sum(values) < math.inf


METRICS: dict[str, Metric] = {metric.name: metric for metric in BUILT_IN}
"""The metrics of this process. Third parties' rows join at the start of a session; a command that
reads files of theirs without them takes unit and direction from the file (`metric_row`)."""


def add_metrics(rows: Iterable[Metric]) -> list[str]:
    """Adds third parties' rows; returns the names that were not there. Raises UsageError for a name
    that is taken by another row."""
    added = []
    for row in rows:
        if METRICS.get(row.name, row) != row:
            raise UsageError(
                f"metric {row.name!r} is already there, with another definition:"
                " choose another name"
            )
        if row.name not in METRICS:
            added.append(row.name)
        METRICS[row.name] = row
    return added


def drop_metrics(names: Iterable[str]) -> None:
    """Takes rows away that `add_metrics` has added: at the end of their session."""
    for name in names:
        METRICS.pop(name, None)


def metric_row(name: str, unit: str = "", better: Better = "lower") -> Metric:
    """The row of a metric. A name without a row gets one that has no limit, made of the unit and
    direction that the file states."""
    return METRICS.get(name) or Metric(name, unit, better)
