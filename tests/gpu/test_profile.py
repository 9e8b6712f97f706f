"""The profile of a model whose kernels are shorter than the host needs to queue them."""

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from tests.gpu import programs

pytestmark = [pytest.mark.only_on_a_gpu, pytest.mark.costs(8)]


@pytest.fixture(scope="module")
def profile(server: ForkServer) -> programs.ProfileFacts:
    """resnet18 at 28 pixels, in bf16."""
    ranks = Ranks(server, ["cuda:0"], threads=1, timeout_s=60)
    facts: programs.ProfileFacts
    (facts,) = ranks.run(programs.profile_facts)
    return facts


def test_the_parts_add_up_to_the_whole(profile: programs.ProfileFacts) -> None:
    """Events that enclosed Python's time were at twice the whole, and more."""
    assert profile.host_ahead
    assert 0.9 < profile.parts_over_whole < 1.15, profile


def test_times_are_those_of_kernels(profile: programs.ProfileFacts) -> None:
    """The host takes longer than the GPU; and a convolution longer than a ReLU."""
    assert profile.host_s > profile.whole_s, profile
    assert profile.convolution_s > 2 * profile.relu_s, profile
