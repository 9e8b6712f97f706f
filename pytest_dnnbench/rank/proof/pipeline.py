"""The proof of a pipeline: short runs compared on every rank with the reference
(pipeline_reference.py).

    trace check     rank 0: the traced stages beside the model itself (trace_check.py)
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

from collections.abc import Callable, Mapping
from functools import partial

import torch.distributed as dist

from pytest_dnnbench.messages import Correctness
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule
from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.conditions import two_may_follow
from pytest_dnnbench.rank.proof.float64_runs import Float64Runs
from pytest_dnnbench.rank.proof.heap import give_back_memory
from pytest_dnnbench.rank.proof.pipeline_own_update import prove_own_update
from pytest_dnnbench.rank.proof.pipeline_part import PipelinePart
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
    compare_parts(comparison, {timed: timed_at, float64: 0})
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


def compare_parts(comparison: Comparison, holders: Mapping[PipelinePart, int]) -> None:
    """Compares parts of the proof, each with its reference on a rank, which the others follow at
    the same time where the ranks differ. Called on all ranks."""
    started: dict[PipelinePart, SharedReference] = {}
    if len({*holders.values()}) == len(holders):
        started |= {part: part.follow(False, holder) for part, holder in holders.items()}

    def compared(part: PipelinePart, thorough: bool) -> Comparison:
        shared = None if thorough else started.pop(part, None)
        return part.compared(shared or part.follow(thorough, holders[part]))

    for part in holders:
        comparison.take(agreed(partial(compared, part)))


def agreed(compared: Callable[[bool], Comparison]) -> Comparison:
    """Compares with bounds that are measured on the very first minibatch, and only where a rank is
    beyond them, with those of a `thorough` reference: it has no others but wider ones, and passes
    every minibatch again. Called on all ranks."""
    comparison = compared(False)
    beyond: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(beyond, bool(comparison.failures))
    if any(beyond):
        del comparison
        give_back_memory()
        comparison = compared(True)
    return comparison
