"""Versions of weights: made without copying more than one, and never changed while a minibatch is
in flight."""

import pytest
import torch
from torch import nn

from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stash import Stash


def gradients(stash: Stash, value: float) -> list[torch.Tensor]:
    return [torch.full_like(parameter, value) for parameter in stash.install(stash.newest)]


def test_an_older_version_keeps_its_values_while_it_is_needed() -> None:
    module = nn.Linear(2, 2)
    stash = Stash(module, Sgd(1.0))
    start = module.weight.detach().clone()
    stash.update(gradients(stash, 1.0), oldest=0)
    stash.update(gradients(stash, 1.0), oldest=0)
    torch.testing.assert_close(stash.install(0)[0].detach(), start)
    torch.testing.assert_close(stash.install(1)[0].detach(), start - 1)
    stash.install(2)
    torch.testing.assert_close(module.weight.detach(), start - 2)
    assert stash.kept == 3


def test_retired_memory_is_used_again() -> None:
    stash = Stash(nn.Linear(2, 2), Sgd(0.1, 0.9))
    places = set()
    for version in range(1, 12):
        stash.update(gradients(stash, 1.0), oldest=max(version - 1, 0))
        places.add(stash.install(version)[0].data_ptr())
    assert stash.kept == 2
    assert len(places) == 2
    assert stash.extra_bytes == stash.version_bytes == 6 * 4


def test_without_a_minibatch_in_flight_weights_are_stepped_in_place() -> None:
    module = nn.Linear(2, 2)
    stash = Stash(module, Sgd(0.1))
    where = module.weight.data_ptr()
    for version in range(1, 5):
        stash.update(gradients(stash, 1.0), oldest=version)
    assert stash.install(4)[0].data_ptr() == where
    assert stash.kept == 1


def test_weights_that_are_overwritten_too_early_make_the_backward_raise() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    stash = Stash(module, Sgd(0.1))
    parameters = stash.install(0)
    loss = module(torch.ones(1, 2)).sum()
    stash.update(gradients(stash, 1.0), oldest=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_those_of_torchs_optimiser(momentum: float) -> None:
    torch.manual_seed(0)
    module, plain = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    plain.load_state_dict(module.state_dict())
    stash = Stash(module, Sgd(0.1, momentum, 0.01))
    optimiser = torch.optim.SGD(
        plain.parameters(), lr=0.1, momentum=momentum, weight_decay=0.01, foreach=False
    )
    for version in range(1, 6):
        given = [torch.randn_like(parameter) for parameter in plain.parameters()]
        for parameter, gradient in zip(plain.parameters(), given, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
        stash.update(given, oldest=version - 1)
    for mine, theirs in zip(stash.install(5), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)


def test_a_shared_parameter_is_one_in_every_version() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    stash = Stash(module, Sgd(0.5))
    stash.update(gradients(stash, 1.0), oldest=0)
    stash.install(1)
    assert module[0].weight is module[1].weight
