"""The proof that the workload's own optimiser updates stages as it would the whole model."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch

from pytest_dnnbench.rank.proof.comparison import Comparison
from pytest_dnnbench.rank.proof.float64_convolutions import Float64Convolutions
from pytest_dnnbench.rank.proof.proven_pipeline import Assembled, Proven, owned_by_stage, trained
from pytest_dnnbench.rank.proof.reference_update import OwnOptimiser
from pytest_dnnbench.rank.whole import whole
from pytest_dnnbench.rank.workloads.batches import wide


def prove_own_update(proven: Proven, assembled: Assembled, comparison: Comparison) -> None:
    """The workload's optimiser of each stage beside a fresh one of the whole model, which takes the
    gradients that arrive on this rank, update by update. An optimiser that is not local to a weight
    fails here."""
    stages = [stage.train() for stage in proven.stages(wide=True)]
    model = proven.model(wide=True)
    held = dict(model.named_parameters(remove_duplicate=False))
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = [
        # A tied weight goes by its first name: the optimiser knows it once.
        {mine: first_names[id(held[name])] for mine, name in names.items() if name in held}
        for names in owned_by_stage(model, stages)
    ]
    runtime = assembled(stages, proven.rule, nullcontext)
    reference = OwnOptimiser(proven.workload, model, proven.settings)

    def follow(gradients: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        arrived = {
            owned[stage][name]: each.clone()
            for stage, named in gradients.items()
            for name, each in named.items()
        }
        reference.update(model, arrived, {})

    runtime.observe_updates(follow)
    minibatches = proven.proof_runs[0]
    batches = [wide(proven.small_batch(number)) for number in range(minibatches)]
    with Float64Convolutions():
        trained(runtime, proven.schedule, batches)
    bounds = reference.bounds()
    for stage, module in runtime.modules.items():
        parameters = {name: whole(each.detach()) for name, each in module.named_parameters()}
        expected = {name: held[owned[stage][name]].detach() for name in parameters}
        within = {name: bounds.get(owned[stage][name], 0.0) for name in parameters}
        when = f"stage {stage} after the optimiser's own updates"
        comparison.add("updates", parameters, expected, within, when)
    runtime.close()
