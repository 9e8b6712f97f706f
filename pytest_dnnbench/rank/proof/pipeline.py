"""The proof of a pipeline: short runs compared on every rank with the reference
(pipeline_reference.py).

    trace check     the traced stages beside the model itself (trace_check.py)
    timed types     one run of one update (timed_update.py)
    float64         two runs under SGD (float64_runs.py)
    own update      where the workload has an optimiser or a scheduler: a run in float64, in which a
                    fresh one of the whole model takes the gradients that reach those of the stages

    rank 0        timed run ─> float64 runs ─> | float64 reference ──────────> | compare
    rank 1        timed run ─> float64 runs ─> | reference of the timed run ─> | compare
    other ranks   timed run ─> float64 runs ─> | wait                          | compare

Ranks put aside what a run leaves in their stages, and give the stages up; then one rank runs the
reference, and sends each rank what it should hold (shared_reference.py). The two references know
nothing of each other: where memory is plentiful, two ranks run them at the same time, otherwise
rank 0 one after the other.
"""

from collections.abc import Callable

import torch.distributed as dist

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.conditions import two_may_follow
from pytest_dnnbench.rank.proof.float64_runs import Float64Runs
from pytest_dnnbench.rank.proof.heap import give_back_memory
from pytest_dnnbench.rank.proof.pipeline_own_update import prove_own_update
from pytest_dnnbench.rank.proof.pipeline_reference import Measured
from pytest_dnnbench.rank.proof.proven_pipeline import Assembled, Proven, checked_trace
from pytest_dnnbench.rank.proof.shared_reference import SharedReference
from pytest_dnnbench.rank.proof.timed_update import TimedUpdate
from pytest_dnnbench.rank.proof.unprovable import RANDOM, is_random
from pytest_dnnbench.rank.workloads.batches import wide


def prove_training(proven: Proven, assembled: Assembled) -> Correctness:
    """Trains on batch(0), batch(1), ... and compares what this rank's replica holds after each
    run."""
    comparison, checked = Comparison(), checked_trace(proven, training=True)
    timed = TimedUpdate(proven, assembled, checked)
    float64 = Float64Runs(proven, assembled, checked.owned)
    timed_at = 1 if two_may_follow(proven.place, checked.parameters) else 0
    compare_parts(comparison, timed, timed_at, float64)
    if isinstance(proven.rule, OwnRule):
        prove_own_update(proven, assembled, comparison)
    if comparison.failures and is_random(
        proven.workload, proven.model(wide=True), wide(proven.batch(0))[0]
    ):
        comparison.failures.insert(0, RANDOM)
    about = checked.about | {
        "reference": "the untraced model in one process, the update rule minibatch by minibatch",
        "minibatches": sum(proven.proof_runs),
        "runs": len(proven.proof_runs),
        "timed arithmetic": checked.arithmetic.name,
    }
    return Correctness(
        comparison.deviations, comparison.tolerances, tuple(comparison.failures), about
    )


def compare_parts(
    comparison: Comparison, timed: TimedUpdate, timed_at: int, float64: Float64Runs
) -> None:
    """Compares the timed run with the reference of the rank `timed_at`, and the runs in float64
    with that of rank 0, which follows at the same time where that is another. Called on all ranks.

    Whether a model is too ill-conditioned for any proof shows in the timed run, whose types are
    coarser than float64. Where it shows there that it is not, nothing is measured in float64.
    """
    least = Measured.NONE if timed.tells_certainty else Measured.FIRST
    early: dict[Measured, SharedReference] = {}
    if timed_at:
        early[least] = float64.follow(least, 0, runs=len(float64.runs))

    def timed_compared(measured: Measured) -> Comparison:
        return timed.compared(timed.follow(measured, timed_at))

    def float64_compared(measured: Measured) -> Comparison:
        started = early.pop(measured) if measured in early else float64.follow(measured, 0)
        return float64.compared(started)

    comparison.take(agreed(timed_compared, Measured.FIRST))
    if least == Measured.NONE and any_rank(timed.is_uncertain):
        least = Measured.FIRST
        early.clear()
    comparison.take(agreed(float64_compared, least))


def agreed(compared: Callable[[Measured], Comparison], least: Measured) -> Comparison:
    """Compares within the bounds of a reference that measures `least`, and only where a rank is
    beyond them, within those of one that measures more, which passes every minibatch again: it has
    no others but wider ones. Called on all ranks."""
    *narrower, last = [each for each in Measured if each >= least]
    for measured in narrower:
        comparison = compared(measured)
        if not any_rank(bool(comparison.failures)):
            return comparison
        del comparison
        give_back_memory()
    return compared(last)


def any_rank(holds: bool) -> bool:
    """Whether something holds on any rank. Called on all ranks."""
    answers = [False] * dist.get_world_size()
    dist.all_gather_object(answers, holds)
    return any(answers)
