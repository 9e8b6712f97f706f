"""What a trace may lose is found by comparing stages with the model itself."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.rank.proof.proven_pipeline import trace_ratio
from pytest_dnnbench.rank.proof.trace_check import TraceCheck
from tests.awkward_models import Autocast, Base
from tests.patience import HANG_S

IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class AsTuple(nn.Module):
    """A whole model as one stage, as a trace of it would compute, with what it adds."""

    def __init__(self, model: Base, added: float = 0.0, sleep_s: float = 0.0) -> None:
        super().__init__()
        self.model, self.added, self.sleep_s = model, added, sleep_s

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        """The logits."""
        time.sleep(self.sleep_s)
        return (Base.forward(self.model, images) + self.added,)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a rank on one core: several threads of small operators spin on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(model: Base, stage: AsTuple, predicted_step_s: float = 0.001) -> float:
    trace = TraceCheck(model, [stage], IMAGES, nullcontext)
    trace.check_computation("fp32")
    return trace.check_time(predicted_step_s)


def test_the_same_work_passes_and_leaves_buffers_as_they_are() -> None:
    model = Base()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert check(model, AsTuple(model)) > 0
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])


def test_a_lost_autocast_is_found_by_its_types() -> None:
    model = Autocast()
    with pytest.raises(
        WrongResult, match="computes in bfloat16, float32, and its traced stages in float32"
    ):
        check(model, AsTuple(model))


def test_other_outputs_are_found() -> None:
    model = Base()
    with pytest.raises(
        WrongResult, match=r"outputs of the traced stages: output deviates by 0\.001"
    ):
        check(model, AsTuple(model, added=0.001))


class Waiting(Base):
    """Waits in its forward for 200 ms."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        time.sleep(0.2)
        return super().forward(images)  # type: ignore[no-any-return] # logits


def test_a_lost_wait_is_found_where_it_is_a_good_part_of_the_step() -> None:
    model = Waiting()
    with pytest.raises(WrongResult, match="it does work on the host that the trace lost"):
        check(model, AsTuple(model))
    assert check(model, AsTuple(model), predicted_step_s=100.0) > 2, "told, where it hardly counts"
    assert check(model, AsTuple(model, sleep_s=0.2)) < 2, "a wait on both sides is none lost"


def said_on_a_rank(model: str, added: float) -> float | str:
    """On a rank: what the check of all ranks says of a model."""
    made = {"Base": Base, "Autocast": Autocast, "Waiting": Waiting}[model]()
    place = SimpleNamespace(rank=dist.get_rank(), world_size=dist.get_world_size())
    proven = SimpleNamespace(place=place, precision="fp32", predicted_step_s=0.1)
    try:
        return trace_ratio(
            cast("Any", proven), TraceCheck(made, [AsTuple(made, added)], IMAGES, nullcontext)
        )
    except WrongResult as error:
        return str(error)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    ("model", "added", "says"),
    [
        ("Autocast", 0.0, "computes in bfloat16"),  # on the first rank
        ("Waiting", 0.0, "work on the host"),  # on the last
        ("Waiting", 0.001, "output deviates by 0.001"),  # on both
        ("Base", 0.0, ""),
    ],
)
def test_what_the_first_or_the_last_rank_finds_all_ranks_say(
    server: ForkServer, ranks: int, model: str, added: float, says: str
) -> None:
    """A rank that went on alone would wait for the others for ever."""
    run = Ranks(server, ["cpu"] * ranks, threads=1, timeout_s=HANG_S).run
    first, *others = run(said_on_a_rank, model, added)
    assert others == [first] * (ranks - 1)
    assert says in first if says else first > 0
