"""The proof of a data-parallel framework: a step in the types that are timed, and a few steps in
float64, compared with the reference (data_parallel_reference.py) tensor by tensor.

    rank 0       timed step ─> step in float64, twice ─> | reference's step, compare | twice
    rank 1       timed step ─> step in float64, twice ─> | the same of the timed step, with bounds
    other ranks  timed step ─> step in float64, twice

Rank 0 puts aside what each step leaves (shelf.py), gives up the framework's model and follows with
the reference: no rank holds both at once. The other ranks send a fingerprint of what they hold,
which must be rank 0's. The timed step starts from the same weights and samples as the first step in
float64. Where memory is plentiful, rank 1 follows it meanwhile; otherwise rank 0 does, beside the
first step in float64.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist

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
    done = _followed(worker, arithmetic, ran)
    return Correctness(done.deviations, done.tolerances, tuple(done.failures), about)


def _followed(worker: ProvenWorker, arithmetic: Arithmetic, ran: FrameworkSteps) -> Comparison:
    """Compares the steps with the reference, on the ranks that follow them. Called on all ranks."""
    rank, done, is_apart = worker.place.rank, Comparison(), ran.timed_at != 0
    is_certain = [True]
    if rank in (0, ran.timed_at):
        proof = TrainingProof(worker, arithmetic, ran.approximation)
        if rank == 0:
            if is_apart:
                proof.comparison.leave_to_another_rank(*kinds_in(arithmetic))
            for index, step in enumerate(ran.steps):
                proof.follow(index, step, None if is_apart or index else ran.timed)
                step.clear()
                ran.timed.clear()
        else:
            is_certain = [proof.follow_timed(ran.timed)]
        proof.explain_failures()
        done = proof.comparison
        del proof
    if is_apart:
        dist.broadcast_object_list(is_certain, src=ran.timed_at)
        if rank == 0 and not is_certain[0]:
            TrainingProof(worker, arithmetic, None).check_certainty()
    return done


def kinds_in(arithmetic: Arithmetic) -> tuple[str, str]:
    """What is compared of the timed step."""
    return f"loss in {arithmetic.name}", f"gradients in {arithmetic.name}"


class TrainingProof:
    """The part of a rank that follows: the reference, and the comparison of steps with it."""

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
        passes = self.worker.passes
        shards = self._shards(index)
        expected = self.reference.differentiate(shards, passes)
        measured = None
        if timed is not None and not self._follow_timed(shards, expected, timed):
            measured = self._certain_bounds(shards, expected)
        self._compare(index, shards, expected, measured, step)

    def follow_timed(self, timed: FrameworkStep) -> bool:
        """Compares the timed step alone; as `_follow_timed`."""
        shards = self._shards(0)
        return self._follow_timed(
            shards, self.reference.differentiate(shards, self.worker.passes), timed
        )

    def check_certainty(self) -> None:
        """Raises WrongResult where bounds in float64 tell no right first step from a wrong one."""
        shards = self._shards(0)
        self._certain_bounds(shards, self.reference.differentiate(shards, self.worker.passes))

    def _shards(self, index: int) -> list[Batch]:
        return [wide(batch) for batch in minibatches_of(self.worker, index)]

    def _follow_timed(
        self, shards: list[Batch], expected: Derivatives, timed: FrameworkStep
    ) -> bool:
        """Compares the timed step. Whether rounding in its arithmetic, and so in the finer float64,
        leaves gradients that tell a wrong step from a right one."""
        passes, start, exact = self.worker.passes, timed.approximation, expected
        if start is not None:
            exact = self.reference.differentiate(shards, passes, start)
        directions = self.arithmetic.directions
        # A second direction only widens the bounds, and is not measured for a step within them.
        for count in range(1, len(directions) + 1):
            bounds = self.reference.bounds(
                shards, passes, exact, self.arithmetic, start, directions[:count]
            )
            compared = self._compared_timed(timed, exact, bounds)
            if not compared.failures:
                break
        self.comparison.take(compared)
        return start is None and is_certain(bounds.gradients, exact.gradients)

    def _certain_bounds(self, shards: list[Batch], expected: Derivatives) -> StepBounds:
        """Bounds in float64. Raises WrongResult where they tell no right step from a wrong one."""
        bounds = self.reference.bounds(shards, self.worker.passes, expected)
        if not is_certain(bounds.gradients, expected.gradients):
            raise WrongResult(
                RANDOM
                if is_random(self.worker.workload, self.reference.model, shards[0][0])
                else UNCERTAIN
            )
        return bounds

    def _compared_timed(
        self, timed: FrameworkStep, expected: Derivatives, bounds: StepBounds
    ) -> Comparison:
        passes, compared = self.worker.passes, Comparison()
        of_loss, of_gradients = kinds_in(self.arithmetic)
        when = "the timed step"
        means, within = {}, {}
        for shard in timed.losses:
            numbers = [str(int(shard) * passes + number) for number in range(passes)]
            means[shard] = torch.stack([expected.losses[each] for each in numbers]).mean()
            within[shard] = max(bounds.losses[each] for each in numbers)
        losses = {shard: loss.to(self.worker.device) for shard, loss in timed.losses.items()}
        compared.add(of_loss, losses, means, within, when)
        compared.add(
            of_gradients,
            timed.gradients,
            expected.gradients,
            widened_by_type(
                self._of_exchange(bounds.gradients, expected.gradients),
                timed.gradients,
                expected.gradients,
            ),
            when,
        )
        return compared

    def _compare(
        self,
        index: int,
        shards: list[Batch],
        expected: Derivatives,
        measured: StepBounds | None,
        step: FrameworkStep,
    ) -> None:
        """Compares what the framework's step left with what was expected: within the least bounds
        first, and only where it is not, within those that a pass with rounding measures."""
        reference, when = self.reference, f"step {index}"
        if measured is None and not reference.has_least_bounds:
            measured = reference.bounds(shards, self.worker.passes, expected)
        bounds = measured or reference.least_bounds(expected)
        compared = self._compared(step, expected, bounds, when)
        if compared.failures and measured is None:
            bounds = reference.bounds(shards, self.worker.passes, expected)
            compared = self._compared(step, expected, bounds, when)
        self.comparison.take(compared)
        reference.update(self._taken(expected, step), expected.buffers, expected.approximation)
        if expected_rates := reference.rule.rates():
            bounds_of_rates = {name: RATES * largest(each) for name, each in expected_rates.items()}
            self.comparison.add(
                "optimiser settings", step.rates, expected_rates, bounds_of_rates, when
            )
        self.comparison.add(
            "parameters", step.parameters, reference.parameters, reference.parameter_bounds(), when
        )

    def _compared(
        self, step: FrameworkStep, expected: Derivatives, bounds: StepBounds, when: str
    ) -> Comparison:
        """The gradients and buffers of a step in float64, compared."""
        compared = Comparison()
        allowed = self._of_exchange(bounds.gradients, expected.gradients)
        compared.add("gradients", step.gradients, expected.gradients, allowed, when)
        compared.add("buffers", step.buffers, expected.buffers[0], bounds.buffers, when)
        return compared

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
