"""The metrics of a record: unit, which way is better, and the limit that a run would hold a later
one to by default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured quantity.

    `tolerance`: the default limit of a change for the worse, as a fraction; None: no limit. For a
    time it is the smallest interesting effect: noise may allow no limit as small, and a change is
    found for sure only when it is clearly larger, so 3% is what finds 5%. `timed`: who else uses
    the devices changes it.
    """

    name: str
    unit: str
    better: str
    tolerance: float | None = None
    timed: bool = False


YARDSTICK = "yardstick_s"
"""Not of the case but of the machine: a work that is always the same (rank/yardstick.py)."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("throughput", "img/s", "higher", 0.03, timed=True),
        Metric("step_time_s", "s", "lower", 0.03, timed=True),
        Metric("allocated_peak_bytes", "B", "lower", 0.01),
        Metric("cached_peak_bytes", "B", "lower", 0.05),
        Metric("resident_peak_bytes", "B", "lower", 0.10),
        Metric("speedup", "x", "higher", timed=True),
        Metric("scaling_efficiency", "1", "higher", timed=True),
        Metric("bubble_fraction", "1", "lower", timed=True),
        Metric("bubble_fraction_ideal", "1", "lower"),
        Metric(YARDSTICK, "s", "lower", timed=True),
        Metric("loss", "nat", "lower"),
        Metric("validation_accuracy", "1", "higher"),
    )
}
