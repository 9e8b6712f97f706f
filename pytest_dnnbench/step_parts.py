"""The parts of a training step, which a breakdown divides its time into: each moment of a rank
belongs to exactly one."""

from typing import Literal

Part = Literal["compute", "communication", "data", "optimizer", "bubble", "idle"]

PARTS: dict[Part, str] = {
    "compute": "compute",
    "communication": "exposed communication",
    "data": "data wait",
    "optimizer": "optimiser",
    "bubble": "bubble",
    "idle": "idle, other host work",
}
"""Each part in words, in the order in which parts are shown.

compute          operators of the forward and backward pass
communication    collectives and transfers under way while the rank computes nothing: waiting for
                 other ranks inside them included
data             the rank waits for its next batch
optimizer        the update of the weights
bubble           a pipeline's rank waits for another stage
idle             nothing of these: the host works outside operators, or sleeps
"""

OWN_PARTS: tuple[Part, ...] = ("compute", "data", "optimizer", "idle")
"""The parts in which a rank needs no other: what slows a job down grows these on one rank, and
"communication" or "bubble" on those that wait for it."""
