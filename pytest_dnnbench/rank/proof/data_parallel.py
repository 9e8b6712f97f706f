"""The proof of a data-parallel framework: a step in the types that are timed, and a few steps in
float64, compared with the reference (data_parallel_reference.py) tensor by tensor.

    rank 0       timed step ─> step in float64, twice ─> | reference's step, bounds, compare | twice
    other ranks  timed step ─> step in float64, twice

Rank 0 puts aside what each step leaves (shelf.py), gives up the framework's model and follows with
the reference: no rank holds both at once. The other ranks send a fingerprint of what they hold,
which must be rank 0's. The timed step starts from the same weights and samples as the first step in
float64.
"""

from collections.abc import Mapping

import torch

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.proof.arithmetic import Arithmetic, widened_by_type
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.data_parallel_reference import Derivatives, Reference, StepBounds
from pytest_dnnbench.rank.proof.distance import Tensors, largest
from pytest_dnnbench.rank.proof.framework_steps import FrameworkStep, FrameworkSteps
from pytest_dnnbench.rank.proof.low_rank import LowRank
from pytest_dnnbench.rank.proof.proven_worker import (
    ProvenWorker,
    arithmetic_of,
    minibatches_of,
    proof_batch,
)
from pytest_dnnbench.rank.proof.unprovable import RANDOM, UNCERTAIN, is_certain, is_random
from pytest_dnnbench.rank.workloads.batches import wide
from pytest_dnnbench.rank.workloads.workload import Batch


def prove_training(worker: ProvenWorker) -> Correctness:
    """A step in the timed types, then PROOF_STEPS steps in float64; compares gradients, parameters,
    buffers and losses with those of the reference on the same global batch."""
    arithmetic = arithmetic_of(worker, proof_batch(worker, 0, 0))
    ran = FrameworkSteps(worker, arithmetic)
    worker.give_up()
    about = ran.about | {
        "dtype": "float64",
        "steps": len(ran.steps),
        "digest": " ".join(ran.fingerprints),
    }
    if worker.place.rank != 0:
        return Correctness({}, {}, (), about)
    proof = _TrainingProof(worker, arithmetic, ran.approximation)
    for index, step in enumerate(ran.steps):
        proof.follow(index, step, ran.timed if index == 0 else None)
        step.clear()
        ran.timed.clear()
    proof.explain_failures()
    done = proof.comparison
    return Correctness(done.deviations, done.tolerances, tuple(done.failures), about)


class _TrainingProof:
    """Rank 0's part: the reference, and the comparison of every step with it."""

    def __init__(
        self, worker: ProvenWorker, arithmetic: Arithmetic, approximation: LowRank | None
    ) -> None:
        self.worker = worker
        self.arithmetic = arithmetic
        self.comparison = Comparison()
        self.reference = Reference(
            worker.workload,
            worker.fresh_module(0, wide=True),
            worker.request,
            shares_buffers=worker.shares_buffers,
            exchanges_zeros=worker.exchanges_zeros,
            synchronised=worker.synchronised,
            approximation=approximation,
        )

    def follow(self, index: int, step: FrameworkStep, timed: FrameworkStep | None) -> None:
        """Runs the reference's step, and compares what the framework's left, and the timed step
        beside the first."""
        shards = [wide(batch) for batch in minibatches_of(self.worker, index)]
        expected, bounds = self._expect(shards, timed)
        self._compare(index, expected, bounds, step)

    def _expect(
        self, shards: list[Batch], timed: FrameworkStep | None
    ) -> tuple[Derivatives, StepBounds]:
        """The derivatives of a step and how far they may be missed."""
        passes = self.worker.passes
        expected = self.reference.differentiate(shards, passes)
        if timed is not None:
            start, exact = timed.approximation, expected
            if start is not None:
                exact = self.reference.differentiate(shards, passes, start)
            bounds = self.reference.bounds(shards, passes, exact, self.arithmetic, start)
            self._compare_timed(timed, exact, bounds)
            del exact
        bounds = self.reference.bounds(shards, passes, expected)
        if timed is not None and not is_certain(bounds.gradients, expected.gradients):
            raise WrongResult(
                RANDOM
                if is_random(self.worker.workload, self.reference.model, shards[0][0])
                else UNCERTAIN
            )
        return expected, bounds

    def _compare_timed(
        self, timed: FrameworkStep, expected: Derivatives, bounds: StepBounds
    ) -> None:
        name, passes = self.arithmetic.name, self.worker.passes
        when = "the timed step"
        assert timed.loss is not None, "of a timed step the loss is kept"
        losses = [str(number) for number in range(passes)]
        mean = torch.stack([expected.losses[each] for each in losses]).mean()
        bound = max(bounds.losses[each] for each in losses)
        self.comparison.add(
            f"loss in {name}", {"loss": timed.loss}, {"loss": mean}, {"loss": bound}, when
        )
        self.comparison.add(
            f"gradients in {name}",
            timed.gradients,
            expected.gradients,
            widened_by_type(
                self._of_exchange(bounds.gradients, expected.gradients),
                timed.gradients,
                expected.gradients,
            ),
            when,
        )

    def _compare(
        self, index: int, expected: Derivatives, bounds: StepBounds, step: FrameworkStep
    ) -> None:
        """Compares what the framework's step left with what was expected."""
        reference, when = self.reference, f"step {index}"
        allowed = self._of_exchange(bounds.gradients, expected.gradients)
        self.comparison.add("gradients", step.gradients, expected.gradients, allowed, when)
        reference.update(self._taken(expected, step), expected.buffers, expected.approximation)
        if expected_rates := reference.rule.rates():
            bounds_of_rates = {name: RATES * largest(each) for name, each in expected_rates.items()}
            self.comparison.add(
                "optimiser settings", step.rates, expected_rates, bounds_of_rates, when
            )
        self.comparison.add(
            "parameters", step.parameters, reference.parameters, reference.parameter_bounds(), when
        )
        self.comparison.add("buffers", step.buffers, expected.buffers[0], bounds.buffers, when)

    def _taken(self, expected: Derivatives, step: FrameworkStep) -> Mapping[str, torch.Tensor]:
        """The gradients that the reference updates by: its own, which it gives up. Where the
        exchange rounds, or the optimiser is the user's own (reference_update.py), those that
        arrived: then rounding of them explains no difference of the parameters."""
        own, expected.gradients = expected.gradients, {}
        if self.reference.rule.by_arrived:
            return step.gradients
        if self.worker.rounding:
            own.clear()
            return {name: gradient.clone() for name, gradient in step.gradients.items()}
        return own

    def _of_exchange(self, bounds: Mapping[str, float], expected: Tensors) -> dict[str, float]:
        """The bounds of gradients, wider where the exchange rounds on purpose."""
        extra = self.worker.rounding
        if extra is None:
            return dict(bounds)
        # Clipping divides by the norm of the rounded gradients, which is off by as much again.
        relative = extra.relative * (1 if self.worker.workload.clip_norm is None else 2)
        return {
            name: bound + relative * max(extra.floor, largest(expected[name]))
            for name, bound in bounds.items()
        }

    def explain_failures(self) -> None:
        """Adds, to a failed comparison, that the model is random, where it is."""
        inputs, _ = wide(proof_batch(self.worker, 0, 0))
        if self.comparison.failures and is_random(
            self.worker.workload, self.reference.model, inputs
        ):
            self.comparison.failures.insert(0, RANDOM)


RATES = 2.0**-50
"""A learning rate that is computed in another order may differ by so much of itself."""
