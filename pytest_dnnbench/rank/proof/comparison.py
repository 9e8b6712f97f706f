"""The comparison of what a rank holds with what its reference holds, tensor by tensor, each with
its own bound (rounding.py)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from pytest_dnnbench.rank.proof.distance import distance, largest, same

Tensors = Mapping[str, torch.Tensor]


@dataclass
class Comparison:
    """By kind ("gradients", "parameters", ...): the deviation and the tolerance of the tensor that
    is nearest to its bound or furthest beyond, both relative to max(1, largest element)."""

    deviations: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _nearest: dict[str, float] = field(default_factory=dict)

    def add(
        self, kind: str, got: Tensors, expected: Tensors, bounds: Mapping[str, float], when: str
    ) -> None:
        """Compares tensors of one kind. `when` completes "KIND of ...": a step, a run, a rank."""
        worst, where, deviates = -1.0, "", 0.0
        self._name(kind)
        for name, difference, theirs in _differences(got, expected):
            bound = bounds.get(name, 0.0)
            part = _part(difference, bound)
            if part <= min(self._nearest.get(kind, -1.0), max(worst, 1.0)):
                continue
            scale = _scale(theirs)
            # "Not at most" and not "above": the comparison has to catch a NaN as well.
            if not part <= self._nearest.get(kind, -1.0):
                self._nearest[kind] = math.inf if math.isnan(part) else part
                self.deviations[kind] = math.inf if math.isnan(difference) else difference / scale
                self.tolerances[kind] = bound / scale
            if not part <= max(worst, 1.0):
                worst, where, deviates = part, name, difference / scale
        if where:
            self.failures.append(f"{kind} of {when}: {where} deviates by {deviates:.3g}")

    def leave_to_another_rank(self, *kinds: str) -> None:
        """Names kinds that another rank compares, in their place among this rank's."""
        for kind in kinds:
            self._name(kind)

    def _name(self, kind: str) -> None:
        self.deviations.setdefault(kind, 0.0)
        self.tolerances.setdefault(kind, 0.0)

    def take(self, other: "Comparison") -> None:
        """Adds what another comparison has compared."""
        for kind in other.deviations:
            self._name(kind)
            part = other._nearest.get(kind)
            if part is not None and not part <= self._nearest.get(kind, -1.0):
                self._nearest[kind] = part
                self.deviations[kind] = other.deviations[kind]
                self.tolerances[kind] = other.tolerances[kind]
        self.failures += other.failures


def _part(difference: float, bound: float) -> float:
    """How much of its bound a difference uses up."""
    if difference == 0:
        return 0.0
    return difference / bound if bound and math.isfinite(bound) else math.inf


def _differences(
    got: Tensors, expected: Tensors
) -> Iterator[tuple[str, float, torch.Tensor | None]]:
    """Name and largest difference of each tensor, and what is expected. The difference is infinite
    where a tensor is absent or of another shape, and nothing is expected then."""
    for name in sorted({*got, *expected}):
        # Looked up once: a shelf reads its file each time.
        ours, theirs = got.get(name), expected.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            yield name, math.inf, None
        elif theirs.numel():
            yield name, 0.0 if same(ours, theirs) else distance(ours, theirs), theirs


def _scale(expected: torch.Tensor | None) -> float:
    return 1.0 if expected is None else max(1.0, largest(expected))


def deviation(got: Tensors, expected: Tensors) -> tuple[float, str]:
    """The largest deviation over all tensors, max |got - expected| / max(1, max |expected|), and
    the name of that tensor. It is infinite where tensors cannot be compared."""
    worst, where = 0.0, ""
    for name, difference, theirs in _differences(got, expected):
        deviates = difference / _scale(theirs)
        if not deviates <= worst:
            worst, where = (math.inf if math.isnan(deviates) else deviates), name
    return worst, where
