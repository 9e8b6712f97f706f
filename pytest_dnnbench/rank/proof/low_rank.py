"""PowerSGD written out: what an exchange of gradients by matrices of low rank makes of their mean
(Vogels, Karimireddy and Jaggi, "PowerSGD", NeurIPS 2019, algorithms 1 and 2).

    matrix    M = mean gradient + error of the step before      n x m
    left      P = orthonormal(M orthonormal(Q))                 n x rank
    right     Q = M^T P, from which the next step starts        m x rank
    given     P Q^T in place of the mean; the error M - P Q^T is kept for the next step

Ranks exchange the sums of M Q and of M^T P only, both linear in a rank's own gradient and error: so
the mean of the gradients and the mean of the errors decide everything, and one process can follow.
A weight whose P and Q together are not much smaller than itself gets the mean, without an error.

Part of the proof's reference. Not here: torch's hook, which does the same over ranks
(frameworks/power_sgd_hook.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.rank.proof.distance import Tensors


@dataclass(frozen=True, slots=True)
class LowRank:
    """The state of the exchange before a step.

    right     of each weight that is exchanged by low rank: Q, m x rank, in float64
    orders    the weight's dimensions in the order in which they lie in memory: its first is n, the
              others make up m
    errors    what the steps so far have left out of each, n x m; none before the first
    """

    right: Tensors
    orders: Mapping[str, tuple[int, ...]]
    errors: Tensors = field(default_factory=dict)

    @torch.no_grad()
    def exchange(self, gradients: Tensors) -> "LowRank":
        """Puts what the exchange gives in place of these mean gradients; returns the state before
        the next step. Raises UsageError for a gradient of zeros, of which torch's hook makes
        NaN."""
        rights, errors = dict(self.right), dict(self.errors)
        for name, start in self.right.items():
            if name not in gradients:
                continue
            turned = gradients[name].permute(*self.orders[name])
            matrix = turned.reshape(len(turned), -1)
            if name in errors:
                matrix = matrix + errors[name]
            product = matrix @ orthonormal(start)
            if not product.any():
                raise UsageError(
                    f"--dnn-ddp-hook powersgd: the gradient of {name!r} is zero, and torch's hook"
                    " divides by its norm: use another hook, or start the model from weights that"
                    " give it a gradient"
                )
            left = orthonormal(product)
            rights[name] = matrix.T @ left
            given = left @ rights[name].T
            errors[name] = matrix - given
            gradients[name] = given.reshape(turned.shape).permute(*_back(self.orders[name]))
        return LowRank(rights, self.orders, errors)


def orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns that span those of the matrix: Gram and Schmidt's, as the paper's, so
    that rounding hurts as much as it does there."""
    columns: list[torch.Tensor] = []
    for column in matrix.unbind(1):
        for other in columns:
            column = column - (other @ column) * other
        columns.append(column / column.norm())
    return torch.stack(columns, dim=1)


def _back(order: tuple[int, ...]) -> list[int]:
    """The permutation that undoes another."""
    return [order.index(place) for place in range(len(order))]
