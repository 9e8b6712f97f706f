"""How far rounding of gradients moves weights, update by update, under SGD."""

import torch

from pytest_dnnbench.rank.proof.arithmetic import FLOAT64, Arithmetic
from pytest_dnnbench.rank.proof.distance import largest
from pytest_dnnbench.rank.update_rule import SgdSettings


class Drift:
    """How far rounding may have moved the weights since the start: the errors of gradients carried
    through SGD's sums, to first order and at their worst, tensor by tensor (largest elements)."""

    def __init__(self, optimiser: SgdSettings, arithmetic: Arithmetic = FLOAT64) -> None:
        self.optimiser = optimiser
        self.arithmetic = arithmetic
        self.weights: dict[str, float] = {}
        self._velocity: dict[str, float] = {}

    def step(
        self, name: str, gradient_error: float, weight: torch.Tensor, velocity: torch.Tensor
    ) -> None:
        """Follows an update of one weight, whose new value and velocity these are."""
        optimiser, unit = self.optimiser, self.arithmetic.unit
        weight_error = self.weights.get(name, 0.0)
        self._velocity[name] = (
            optimiser.momentum * self._velocity.get(name, 0.0)
            + gradient_error
            + optimiser.weight_decay * weight_error
            + unit * largest(velocity)
        )
        self.weights[name] = (
            weight_error + optimiser.learning_rate * self._velocity[name] + unit * largest(weight)
        )

    def bounds(self) -> dict[str, float]:
        """How far a right framework's weights may be from the reference's."""
        return {name: self.arithmetic.factor * error for name, error in self.weights.items()}
