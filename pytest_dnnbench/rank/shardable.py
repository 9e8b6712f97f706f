"""Whether fully_shard (FSDP2) can share out weights that it gathers together: a block's, a stage's.

Not here: what is gathered together (frameworks/fsdp.py, pipeline/shared_stage.py).
"""

from collections.abc import Mapping

import torch

from pytest_dnnbench.errors import UsageError


def check_shardable(owner: str, weights: Mapping[str, torch.Tensor], instead: str) -> None:
    """Raises UsageError for weights that FSDP cannot share out, by name, of a model's part `owner`.
    `instead` is what else the user may do."""
    types = {each.dtype for each in weights.values()}
    if len(types) > 1 or any(each.is_complex for each in types):
        names = ", ".join(sorted(str(each).removeprefix("torch.") for each in types))
        raise UsageError(
            f"FSDP shards the weights of {owner} together, and they are of type {names}: give them"
            f" one real type, {instead}"
        )
    for name, weight in weights.items():
        if weight.ndim == 0:
            raise UsageError(
                f"the weight {name!r} of {owner} has no dimension along which FSDP could share it"
                f" out: give it the shape (1,), {instead}"
            )
        if not weight.is_contiguous():
            raise UsageError(
                f"the weight {name!r} of {owner} does not lie in rows, as with channels_last, and"
                f" FSDP shares out rows: leave its memory format as it is, {instead}"
            )
