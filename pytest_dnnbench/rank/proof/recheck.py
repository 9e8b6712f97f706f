"""After the timed steps: the model that was timed still computes what a fresh model of the user's
computes with the same weights. The proof cannot show that, for it runs before, in processes of its
own: a model that computes less once it has been proven would pass it."""

from contextlib import nullcontext
from typing import Any

import torch

from pytest_dnnbench.rank.buffers import Buffers
from pytest_dnnbench.rank.proof.arithmetic import TypesUsed, coarsest
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.evaluation import evaluated, evaluation_bounds
from pytest_dnnbench.rank.proof.lone_forward import outputs_of
from pytest_dnnbench.rank.proof.proven_worker import ProvenWorker, proof_size, randomness_off
from pytest_dnnbench.rank.proof.randomness import NoRandomness
from pytest_dnnbench.rank.step_forms import laid_out
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import joined, parted, synthetic_batch, wide
from pytest_dnnbench.rank.workloads.structure import mapped, tensors_of
from pytest_dnnbench.rank.workloads.workload import Batch

STEP = 1_000_000
"""The step whose synthetic minibatch is taken: no run has had it."""


def recheck(worker: ProvenWorker) -> str | None:
    """Compares the outputs of a forward pass in the case's phase, in the types that were timed,
    with those of a fresh model in float64 with this rank's weights and buffers. A compiled model
    runs its compiled form, on as many samples as it was timed with. Called on every rank.

    The bound is that of the proof (rounding.py). Returns what is wrong, None where nothing is.
    """
    workload, case, train = worker.workload, worker.case, worker.case.phase == "train"
    joins = worker.synchronised and train
    shards = range(worker.shards) if joins else [worker.shard]
    minibatches = [_minibatch(worker, shard) for shard in shards]
    own = worker.shard if joins else 0
    reference = worker.fresh_module(worker.place.rank, wide=True)
    state = worker.module.state_dict()
    # In its place: a state has versions, which a plain dict lacks.
    for name, tensor in state.items():
        state[name] = whole(tensor)
    reference.load_state_dict(state)
    timed, types = _timed_outputs(worker, minibatches[own])
    outputs = outputs_of(workload, timed)
    inputs = joined([wide(batch)[0] for batch in minibatches])
    expected = evaluated(workload, reference, inputs, train)
    arithmetic = coarsest({torch.float32, *types}, case.precision)
    bounds = evaluation_bounds(workload, reference, inputs, expected, arithmetic, train)
    if joins:
        sizes = [len(next(tensors_of(each))) for each, _ in minibatches]
        expected = parted(expected, sizes)[own]
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


def _minibatch(worker: ProvenWorker, shard: int) -> Batch:
    """A minibatch of a shard: of the proof's size; of the timed one where the model is compiled,
    since other sizes would be another graph than the timed one."""
    size = worker.case.batch_size if worker.case.form.compile else proof_size(worker)
    return synthetic_batch(
        worker.workload,
        shard,
        STEP,
        worker.device,
        size=size,
        seed=worker.case.seed,
        proof=not worker.case.form.compile,
    )


def _timed_outputs(worker: ProvenWorker, batch: Batch) -> tuple[Any, set[torch.dtype]]:
    """The outputs of the model as it was timed, and the types that it computes in."""
    batch = laid_out(batch, worker.case.form)
    module = worker.module.train(worker.case.phase == "train")
    held = Buffers(module)
    compiled = worker.local is not module
    # The types of a compiled model are those of the pass that it was compiled from.
    aside = held.borrowed(held.copies()) if compiled else nullcontext()
    with aside, torch.no_grad(), NoRandomness(), TypesUsed() as used, worker.computing():
        outputs = worker.workload.forward(module, batch[0])
    if compiled:
        # With gradients where the timed pass had them: that is part of what was compiled.
        gradients = torch.set_grad_enabled(module.training)
        with gradients, randomness_off(worker, batch), worker.computing():
            outputs = mapped(worker.workload.forward(worker.local, batch[0]), torch.detach)
    return outputs, used.types
