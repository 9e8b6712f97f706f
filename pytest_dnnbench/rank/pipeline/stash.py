"""The versions of a stage's weights. It takes one pass over the weights to make a version, and
nothing more to keep it.

    version   3 (in flight)     4 (in flight)     5 (newest)          retired
    tensors   ring slot 0       ring slot 2       ring slot 1   <──   slot reused by version 6

A forward pass runs on the tensors of its version themselves: autograd keeps what the backward pass
needs, and nothing is copied back and forth. The optimiser writes the next version into a retired
slot, or in place when no minibatch needs the newest any more. If a slot were overwritten too early,
torch's version counters would make the backward pass raise.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.sgd import sgd

from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stage_update import OwnRule, OwnUpdate


class Stash:
    """The parameters of one module in several versions. The version at the start is number 0.

    They are updated by SGD, or by a workload's own rule.
    """

    def __init__(self, module: nn.Module, optimiser: Sgd | OwnRule) -> None:
        self.optimiser = optimiser
        self._owners = _owners(module)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._own: OwnUpdate | None = None
        self._velocity: list[torch.Tensor] = []
        if isinstance(optimiser, OwnRule):
            self._own = OwnUpdate(optimiser, module)
            # The module's parameters are the optimiser's from now on.
            trained = [nn.Parameter(parameter.data) for parameter in trained]
        elif optimiser.momentum:
            self._velocity = [torch.zeros_like(parameter) for parameter in trained]
        self._versions: dict[int, list[nn.Parameter]] = {0: trained}
        self._retired: list[list[nn.Parameter]] = []
        self.newest = 0
        self.installed = -1
        self.kept = 1
        self.install(0)

    @property
    def newest_parameters(self) -> list[nn.Parameter]:
        """The trained parameters in their newest version, in the order of `module.parameters()`.
        The module keeps the version that it has."""
        return self._versions[self.newest]

    def install(self, version: int) -> list[nn.Parameter]:
        """Puts a version into the module, for a forward pass, and returns its parameters."""
        parameters = self._versions[version]
        if version != self.installed:
            for owners, parameter in zip(self._owners, parameters, strict=True):
                for table, name in owners:
                    table[name] = parameter
            self.installed = version
        return parameters

    def update(self, gradients: Sequence[torch.Tensor | None], oldest: int) -> None:
        """Makes the next version from the newest, and gives up the versions before `oldest`. A
        parameter whose gradient is None keeps its value, as in torch.optim."""
        before = self._versions[self.newest]
        if oldest > self.newest:
            # No minibatch is in flight: the newest version is stepped in place, not copied.
            del self._versions[self.newest]
        self._retired += [
            self._versions.pop(version) for version in list(self._versions) if version < oldest
        ]
        after = before if oldest > self.newest else self._copy(before)
        self.newest += 1
        self._versions[self.newest] = after
        self.kept = max(self.kept, len(self._versions) + len(self._retired))
        self._step(after, gradients)
        # The module may hold a retired version now, or the newest under its old number.
        self.installed = -1

    def _copy(self, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
        with torch.no_grad():
            if not self._retired:
                return [nn.Parameter(parameter.clone()) for parameter in parameters]
            slot = self._retired.pop()
            if slot:
                torch._foreach_copy_(list[torch.Tensor](slot), list[torch.Tensor](parameters))
            return slot

    def _step(
        self, parameters: list[nn.Parameter], gradients: Sequence[torch.Tensor | None]
    ) -> None:
        if self._own is not None:
            aligned = [
                None if gradient is None else _laid_out_like(parameter, gradient)
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]
            self._own.step(parameters, aligned)
            torch.autograd.graph.increment_version(parameters)
        elif isinstance(self.optimiser, Sgd):
            self._sgd(self.optimiser, parameters, gradients)

    @torch.no_grad()
    def _sgd(
        self,
        settings: Sgd,
        parameters: list[nn.Parameter],
        gradients: Sequence[torch.Tensor | None],
    ) -> None:
        stepped: list[torch.Tensor] = []
        aligned: list[torch.Tensor] = []
        velocity: list[torch.Tensor | None] = []
        for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if gradient is not None:
                stepped.append(_real(parameter))
                aligned.append(_real(_laid_out_like(parameter, gradient)))
                velocity.append(_real(self._velocity[place]) if self._velocity else None)
        if not stepped:
            return
        sgd(
            stepped,
            aligned,
            velocity,
            fused=settings.fused or None,
            foreach=None,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            lr=settings.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # The fused kernel leaves this to its caller, the others count once more. It is what makes a
        # backward pass raise that needs the former values.
        torch.autograd.graph.increment_version(parameters)

    @property
    def version_bytes(self) -> int:
        """Bytes of one version."""
        return sum(parameter.nbytes for parameter in self._versions[self.newest])

    @property
    def extra_bytes(self) -> int:
        """Bytes of all versions but one, at the peak so far."""
        return (self.kept - 1) * self.version_bytes


Owners = list[tuple[dict[str, nn.Parameter | None], str]]


def _owners(module: nn.Module) -> list[Owners]:
    """For each trained parameter, in the order of `module.parameters()`, the tables of the
    submodules that hold it: a shared parameter is in several."""
    owners: dict[int, Owners] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.requires_grad:
                owners.setdefault(id(parameter), []).append((part._parameters, name))
    return list(owners.values())


def _laid_out_like(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with the strides of its parameter. The fused kernel walks through both in the
    order of memory, and torch.autograd.grad promises no order."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as pairs of real numbers, which SGD treats alike; the fused kernel knows no
    complex ones."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
