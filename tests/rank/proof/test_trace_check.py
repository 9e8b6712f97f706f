"""What a trace may lose is found by comparing stages with the model itself."""

import time
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.rank.proof.trace_check import TraceCheck
from tests.awkward_models import Autocast, Base

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
