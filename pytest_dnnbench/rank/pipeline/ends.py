"""The two ends of a pipeline: how a minibatch becomes tensors on the first stage, and how the last
stage's tensors become what the loss takes.

    minibatch  {"source": s, "target": t}, labels    {"logits": l, "auxiliary": a}, labels  ──> loss
                       │       │              │                ▲            ▲           ▲
    stage 0           (s,      t)         labels ──> ... ──>  (l,           a)        labels

Between stages travel tensors only, in rows. What stands around them is the same in all minibatches,
and every rank knows it: from an example of the workload, and from the trace of the model. Not here:
what crosses which cut (stage_graph.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_dnnbench.rank.profiling.example_input import rows
from pytest_dnnbench.rank.workloads.structure import ONE, Structure


@dataclass(frozen=True, slots=True)
class Ends:
    """The structures of inputs, of targets and of the model's output in training and in evaluation,
    each one tensor unless said otherwise, and how to count the samples of inputs."""

    inputs: Structure = ONE
    targets: Structure = ONE
    output: Structure = ONE
    output_in_evaluation: Structure = ONE
    samples: Callable[[Any], int] = rows


ONE_EACH = Ends()
"""Those of a model of one tensor, with one tensor of targets."""
