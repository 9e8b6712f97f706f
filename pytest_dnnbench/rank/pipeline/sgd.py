"""The settings of SGD: the optimiser of every workload that has none of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent: d = gradient + weight_decay * w; v = momentum * v + d; w -=
    learning_rate * v.

    `w` is the newest version of the weights, also where the gradient was taken at an older one.
    `fused`: one kernel updates all weights; otherwise torch chooses, as torch.optim.SGD does.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    fused: bool = False
