"""After the timed steps: the model that was timed still computes what a fresh model of the user's
computes with the same weights. The proof cannot show that, for it runs before, in processes of its
own: a model that computes less once it has been proven would pass it."""

import torch

from pytest_dnnbench.rank.batches import synthetic_batch, wide
from pytest_dnnbench.rank.comparison import Comparison
from pytest_dnnbench.rank.frameworks.data_parallel_proof import ProvenWorker, proof_size
from pytest_dnnbench.rank.lone_forward import outputs_of
from pytest_dnnbench.rank.randomness import NoRandomness
from pytest_dnnbench.rank.reference import evaluated, evaluation_bounds
from pytest_dnnbench.rank.rounding import TypesUsed, coarsest
from pytest_dnnbench.rank.step_forms import laid_out
from pytest_dnnbench.rank.whole import whole

STEP = 1_000_000
"""The step whose synthetic minibatch is taken: no run has had it."""


def recheck(worker: ProvenWorker) -> str | None:
    """Compares the outputs of a forward pass in the case's phase, in the types that were timed,
    with those of a fresh model in float64 with this rank's weights and buffers.

    The bound is that of the proof (rounding.py). Returns what is wrong, None where nothing is.
    """
    workload, case, train = worker.workload, worker.case, worker.case.phase == "train"
    batch = synthetic_batch(
        workload,
        worker.shard,
        STEP,
        worker.device,
        size=proof_size(worker),
        seed=case.seed,
        proof=True,
    )
    reference = worker.fresh_module(worker.place.rank, wide=True)
    held = worker.module.state_dict()
    reference.load_state_dict({name: whole(tensor) for name, tensor in held.items()})
    with torch.no_grad(), NoRandomness(), TypesUsed() as used, worker.computing():
        formed, _ = laid_out(batch, case.form)
        timed = workload.forward(worker.module.train(train), formed)
    outputs, (inputs, _) = outputs_of(workload, timed), wide(batch)
    expected = evaluated(workload, reference, inputs, train)
    arithmetic = coarsest({torch.float32, *used.types}, case.precision)
    bounds = evaluation_bounds(workload, reference, inputs, expected, arithmetic, train)
    comparison = Comparison()
    kind = f"{workload.output_name} in {arithmetic.name}"
    comparison.add(kind, outputs, expected, bounds, f"rank {worker.place.rank}")
    if not comparison.failures:
        return None
    return (
        "after the timed steps the model computes something else than a fresh one with the same"
        f" weights and buffers ({comparison.failures[0]}, allowed are"
        f" {comparison.tolerances[kind]:.3g}): what was timed is not what was proven. Let its"
        " forward depend on its inputs, parameters and buffers only, and on no count of calls"
    )
