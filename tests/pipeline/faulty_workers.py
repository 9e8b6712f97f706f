"""Pipeline workers with one planted fault each: the correctness gate must catch every one of
them."""

from collections.abc import Sequence
from typing import Any

import torch

from pytest_dnnbench.rank.frameworks.pipedream import PipeDreamWorker
from pytest_dnnbench.rank.pipeline.runtime import Runtime


class NoAllReduce(PipeDreamWorker):
    """Replicas keep their gradients to themselves."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        runtime._gradients._replicas = None
        return runtime


class NoStash(PipeDreamWorker):
    """Every forward meets the newest weights, as if there were one version only."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        stash = runtime.stage.stash
        install = stash.install
        stash.install = lambda version: install(stash.newest)  # type: ignore[method-assign]
        return runtime


class MisplacedUpdate(PipeDreamWorker):
    """One stage ignores momentum."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        if runtime.links.stage == 0:
            for velocity in runtime.stage.stash._velocity:
                velocity.zero_()
            update = runtime.stage.stash.update

            def forgetful(gradients: Sequence[torch.Tensor | None], oldest: int) -> None:
                update(gradients, oldest)
                for velocity in runtime.stage.stash._velocity:
                    velocity.zero_()

            runtime.stage.stash.update = forgetful  # type: ignore[method-assign]
        return runtime


class StaleAfterDrain(PipeDreamWorker):
    """The second run starts from the weights of the first one's start: the original's bug after an
    epoch."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        stash = runtime.stage.stash
        old = [parameter.detach().clone() for parameter in stash.install(0)]
        train = runtime.train

        def forgetful(*arguments: Any) -> Any:
            if stash.newest:
                with torch.no_grad():
                    for parameter, value in zip(stash.install(stash.newest), old, strict=True):
                        parameter.copy_(value)
            return train(*arguments)

        runtime.train = forgetful  # type: ignore[assignment, method-assign]
        return runtime


class StaleByOne(PipeDreamWorker):
    """Every forward meets weights one version older than the rule's, where there is an older
    one."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        stash = runtime.stage.stash
        install, update = stash.install, stash.update

        def keeping(gradients: Sequence[torch.Tensor | None], oldest: int) -> None:
            update(gradients, max(oldest - 2, 0))

        def stale(version: int) -> Any:
            return install(max(version - 1, min(stash._versions)))

        stash.install = stale  # type: ignore[method-assign]
        stash.update = keeping  # type: ignore[method-assign]
        return runtime


class RightInDoubleOnly(PipeDreamWorker):
    """Rounds its gradients to bfloat16 before the update, in single precision and there alone."""

    def _assembled(self, *arguments: Any) -> Runtime:
        runtime = super()._assembled(*arguments)
        take = runtime._gradients.take

        def rounded(minibatches: int) -> list[torch.Tensor | None]:
            return [
                gradient.bfloat16().float()
                if gradient is not None and gradient.dtype == torch.float32
                else gradient
                for gradient in take(minibatches)
            ]

        runtime._gradients.take = rounded  # type: ignore[method-assign]
        return runtime
