"""Speed-up and scaling efficiency: a case's throughput over that of `single` in the same session.
Of a case on several nodes also the two parts of its efficiency, over the case that fills one of
these nodes, the reference:

    speed-up                     T(k nodes of r ranks) / T(single)
    scaling efficiency           T(k nodes of r ranks) / (k r T(single))
    efficiency across nodes      T(k nodes of r ranks) / (k T(1 node of r ranks))
    efficiency within a node     T(1 node of r ranks) / (r T(single))

A launch is divided by the other case's launch in the same round, so that a drift of the machine
cancels. A case has no figure without the other case in the same setting.
"""

import statistics
from collections.abc import Hashable, Iterable, Sequence
from operator import attrgetter

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.results.records.launches import Reasons, either, launches_of
from pytest_dnnbench.results.records.record import metric_entry
from pytest_dnnbench.results.records.schema import Record

SINGLE = "single"
"""The framework that the others are compared with."""

WITHIN, ACROSS = "efficiency_within_node", "efficiency_across_nodes"

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
    """Adds the figures to the records of a session, as they are made.

    A record is touched again only when the `single` of its setting, or its reference, comes after
    it: adding a case costs the same however many there are.
    """

    def __init__(self) -> None:
        self._singles: dict[Hashable, Record] = {}
        self._records: dict[Hashable, list[Record]] = {}
        self._on_one_node: dict[Hashable, Record] = {}
        self._on_several: dict[Hashable, list[Record]] = {}

    def add(self, record: Record) -> None:
        """Takes in a record, and adds the figures to every record that can now have them. A timed
        function has none."""
        if record.case is None:
            return
        setting, touched = _setting(record), [record]
        same = self._records.setdefault(setting, [])
        same.append(record)
        if record.case.framework == SINGLE:
            self._singles[setting] = record
            touched = same
        elif (ranks := _ranks_of_each_node(record)) is not None:
            on_a_node = _on_a_node(record, ranks)
            if record.case.nodes == 1:
                self._on_one_node[on_a_node] = record
                touched = [record, *self._on_several.get(on_a_node, ())]
            else:
                self._on_several.setdefault(on_a_node, []).append(record)
        for other in touched:
            self._complete(other, setting)

    def _complete(self, record: Record, setting: Hashable) -> None:
        single = self._singles.get(setting)
        if single is not None:
            _relate(record, single)
        ranks = _ranks_of_each_node(record)
        if ranks is not None and record.trained_case.nodes > 1:
            reference = self._on_one_node.get(_on_a_node(record, ranks))
            if reference is None and ranks == 1:
                reference = single
            if reference is not None:
                _relate_nodes(record, reference, ranks, single)


def relate(records: Iterable[Record]) -> None:
    """Adds the figures to all records of a session that can have them. Repeating it changes
    nothing."""
    speed_ups = SpeedUps()
    for record in records:
        speed_ups.add(record)


def speed_ups_of(record: Record, rates: Sequence[float]) -> dict[str, list[float]]:
    """The figures of fresh launches of a case, from their throughput and from what the other cases
    did earlier in the session. Without those that the case does not have, and those for which too
    many launches of the other case were disturbed to divide by."""
    fresh = {}
    single, node = _rate_of_one(record, "speedup"), _rate_of_one(record, ACROSS)
    if single is not None:
        gpus = record.measured_case.gpus
        fresh["speedup"] = [rate / single for rate in rates]
        fresh["scaling_efficiency"] = [rate / single / gpus for rate in rates]
    if node is not None:
        fresh[ACROSS] = [rate / node for rate in rates]
    if single is not None and node is not None:
        fresh[WITHIN] = [node / single / gpus] * len(rates)
    return fresh


def _rate_of_one(record: Record, name: str) -> float | None:
    """The throughput at which a figure of the case would be 1; None where it has no such figure, or
    too few launches to say."""
    if name not in record.metrics:
        return None
    ratios = record.metrics[name]
    pairs = zip(record.metrics[THROUGHPUT].per_launch, ratios.per_launch, strict=False)
    units = launches_of(name, [rate / ratio for rate, ratio in pairs], ratios.disturbed)
    return statistics.median(units.undisturbed) if units.enough else None


def _relate(record: Record, single: Record) -> None:
    ratios, disturbed = _ratios(record, single)
    efficiencies = [ratio / record.measured_case.gpus for ratio in ratios]
    record.metrics["speedup"] = metric_entry("speedup", ratios, disturbed=disturbed)
    record.metrics["scaling_efficiency"] = metric_entry(
        "scaling_efficiency", efficiencies, disturbed=disturbed
    )


def _relate_nodes(record: Record, reference: Record, ranks: int, single: Record | None) -> None:
    ratios, disturbed = _ratios(record, reference)
    across = [ratio / record.trained_case.nodes for ratio in ratios]
    record.metrics[ACROSS] = metric_entry(ACROSS, across, disturbed=disturbed)
    if single is not None:
        ratios, disturbed = _ratios(reference, single)
        within = [ratio / ranks for ratio in ratios]
        record.metrics[WITHIN] = metric_entry(WITHIN, within, disturbed=disturbed)


def _ratios(record: Record, other: Record) -> tuple[list[float], Reasons]:
    """The throughput over that of the other case, launch by launch, and why launches of either were
    disturbed; empty where none was."""
    rates, others = (case.metrics[THROUGHPUT].per_launch for case in (record, other))
    reasons = either(record.reasons, other.reasons)
    ratios = [rate / other_rate for rate, other_rate in zip(rates, others, strict=False)]
    return ratios, reasons if any(reasons) else ()


def _ranks_of_each_node(record: Record) -> int | None:
    """How many ranks each node of a case has; None where they are not equally many."""
    case, nodes = record.trained_case, record.launches[0].conditions.nodes
    if case.nodes == 1:
        return case.gpus
    ranks = {node.ranks for node in nodes}
    return ranks.pop() if len(ranks) == 1 else None


def _on_a_node(record: Record, ranks: int) -> Hashable:
    """What the reference of a case on nodes of so many ranks has, and the case too."""
    case = record.trained_case
    return _setting(record), case.framework, tuple(sorted(case.options.items())), ranks


def _setting(record: Record) -> Hashable:
    """What must be alike for a speed-up to mean anything."""
    case = record.trained_case
    weak = case.scaling == "weak"
    samples = case.batch_size if weak else case.batch_size * case.gpus
    return samples, *_SETTING(record)
