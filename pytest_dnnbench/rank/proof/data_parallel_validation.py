"""The proof of a data-parallel framework's validation: outputs in evaluation mode, in the types
that are timed and in float64."""

import torch

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.proof.arithmetic import FLOAT64
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.distance import Tensors
from pytest_dnnbench.rank.proof.evaluation import evaluated, evaluation_bounds
from pytest_dnnbench.rank.proof.fingerprint import digest
from pytest_dnnbench.rank.proof.lone_forward import outputs_of
from pytest_dnnbench.rank.proof.proven_worker import (
    ProvenWorker,
    about_of,
    arithmetic_of,
    proof_batch,
    randomness_off,
)
from pytest_dnnbench.rank.proof.unprovable import RANDOM, is_random
from pytest_dnnbench.rank.step_forms import laid_out
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.workload import Batch


def prove_validation(worker: ProvenWorker) -> Correctness:
    """Compares the outputs in evaluation mode with those of a plain module with rank 0's weights:
    in the timed types and in float64."""
    batch, workload = proof_batch(worker, 0, 0), worker.workload
    arithmetic = arithmetic_of(worker, batch)
    worker.build()
    timed = _evaluated(worker, batch)
    about = about_of(worker, arithmetic)
    worker.build_wide()
    inputs, targets = wide(batch)
    got = _evaluated(worker, (inputs, targets))
    worker.give_up()
    reference = worker.fresh_module(0, wide=True)
    expected = evaluated(workload, reference, inputs)
    comparison, when = Comparison(), f"rank {worker.place.rank}"
    for kind, outputs, each in (
        (f"{workload.output_name} in {arithmetic.name}", timed, arithmetic),
        (workload.output_name, got, FLOAT64),
    ):
        bounds = evaluation_bounds(workload, reference, inputs, expected, each)
        comparison.add(kind, outputs, expected, bounds, when)
    if comparison.failures and is_random(workload, reference.eval(), inputs):
        comparison.failures.insert(0, RANDOM)
    return Correctness(
        comparison.deviations,
        comparison.tolerances,
        tuple(comparison.failures),
        {
            "reference": "a plain module with rank 0's weights, in evaluation mode",
            "dtype": "float64",
            **about,
            "digest": f"{digest(timed)} {digest(got)}",
        },
    )


def _evaluated(worker: ProvenWorker, batch: Batch) -> Tensors:
    worker.module.eval()
    batch = laid_out(batch, worker.case.form)
    with torch.no_grad(), randomness_off(worker, batch):
        return outputs_of(worker.workload, worker.evaluate(batch))
