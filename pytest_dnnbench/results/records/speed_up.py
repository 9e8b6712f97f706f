"""Speed-up and scaling efficiency: a case's throughput over that of `single` in the same session.

A launch is divided by the launch of `single` in the same round, so that a drift of the machine
cancels. A case has neither figure without a `single` of the same setting.
"""

import statistics
from collections.abc import Hashable, Iterable, Sequence
from operator import attrgetter

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.results.records.launches import either, launches_of
from pytest_dnnbench.results.records.record import metric_entry
from pytest_dnnbench.results.records.schema import Record

SINGLE = "single"
"""The framework that the others are compared with."""

# Cases are compared when these are alike, and the samples of a step that the scaling keeps fixed.
_SETTING = attrgetter(
    *(
        f"case.{name}"
        for name in (
            "model", "phase", "dataset", "image_size", "sequence_length", "precision", "scaling",
            "device", "seed", "form",
        )
    ),
    "run.steps",
    "run.warmup",
)  # fmt: skip


class SpeedUps:
    """Adds both figures to the records of a session, as they are made.

    A record is touched again only when a `single` of its setting comes after it: adding a case
    costs the same however many there are.
    """

    def __init__(self) -> None:
        self._singles: dict[Hashable, Record] = {}
        self._records: dict[Hashable, list[Record]] = {}

    def add(self, record: Record) -> None:
        """Takes in a record, and adds the figures to every record that can now have them. A timed
        function has none."""
        if record.case is None:
            return
        setting = _setting(record)
        same = self._records.setdefault(setting, [])
        same.append(record)
        if record.case.framework == SINGLE:
            self._singles[setting] = record
            for other in same:
                _relate(other, record)
        elif setting in self._singles:
            _relate(record, self._singles[setting])


def relate(records: Iterable[Record]) -> None:
    """Adds both figures to all records of a session that can have them. Repeating it changes
    nothing."""
    speed_ups = SpeedUps()
    for record in records:
        speed_ups.add(record)


def speed_ups_of(record: Record, rates: Sequence[float]) -> dict[str, list[float]]:
    """Both figures of fresh launches of a case, from their throughput and from what `single` did
    earlier in the session. Empty where the case has no speed-up, and where too many launches of
    `single` were disturbed to divide by."""
    if "speedup" not in record.metrics:
        return {}
    ratios = record.metrics["speedup"]
    pairs = zip(record.metrics[THROUGHPUT].per_launch, ratios.per_launch, strict=False)
    singles = launches_of("speedup", [rate / ratio for rate, ratio in pairs], ratios.disturbed)
    if not singles.enough:
        return {}
    single = statistics.median(singles.undisturbed)
    speed_ups = [rate / single for rate in rates]
    efficiencies = [speed_up / record.measured_case.gpus for speed_up in speed_ups]
    return {"speedup": speed_ups, "scaling_efficiency": efficiencies}


def _relate(record: Record, single: Record) -> None:
    rates, single_rates = (case.metrics[THROUGHPUT].per_launch for case in (record, single))
    ratios = [rate / other for rate, other in zip(rates, single_rates, strict=False)]
    reasons = either(record.reasons, single.reasons)
    disturbed = reasons if any(reasons) else ()
    efficiencies = [ratio / record.measured_case.gpus for ratio in ratios]
    record.metrics["speedup"] = metric_entry("speedup", ratios, disturbed=disturbed)
    record.metrics["scaling_efficiency"] = metric_entry(
        "scaling_efficiency", efficiencies, disturbed=disturbed
    )


def _setting(record: Record) -> Hashable:
    """What must be alike for a speed-up to mean anything."""
    case = record.trained_case
    weak = case.scaling == "weak"
    samples = case.batch_size if weak else case.batch_size * case.gpus
    return samples, *_SETTING(record)
