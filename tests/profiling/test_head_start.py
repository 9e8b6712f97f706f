"""Profiles of launch-bound models time kernels and not Python: on a GPU that only counts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.remarks import remarks_on
from pytest_dnnbench.rank.profiling import profiler
from pytest_dnnbench.rank.profiling.head_start import MARGIN, OPERATORS, GpuHeadStart
from pytest_dnnbench.rank.profiling.profiler import (
    Effort,
    agreeing,
    parts_over_whole,
    profile_module,
)

US = 1e-6
HOST_S = 40 * US
"""What the host takes to queue an operator of the model below."""
LAYERS = 100


class Gpu:
    """The times of a host and of its GPU, which runs what is queued in order. `room` operations may
    be queued; then the host waits. It is a stopwatch too, whose marks take no time."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.host_s = self.gpu_s = 0.0
        self._room = room
        self._ends: list[float] = []

    def queue(self, seconds: float, host_s: float = 0.0) -> float:
        """The end of an operation that the host queues now, in `host_s`."""
        self.host_s += host_s
        if len(self._ends) >= self._room:
            self.host_s = max(self.host_s, self._ends[-self._room])
        self.gpu_s = max(self.gpu_s, self.host_s) + seconds
        self._ends.append(self.gpu_s)
        return self.gpu_s

    def mark(self) -> float:
        return self.queue(0.0)

    def settle(self) -> None:
        self.host_s = max(self.host_s, self.gpu_s)

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def asleep(self, seconds: float) -> Callable[[], bool]:
        end = self.queue(seconds)
        return lambda: self.host_s >= end

    def head_start(self, _: object = None) -> GpuHeadStart:
        return GpuHeadStart(self.asleep, lambda: self.host_s)


class Kernel(torch.autograd.Function):
    """Takes so long on the GPU, and twice as long backward; the host takes HOST_S either way."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, gpu: Gpu, seconds: float) -> torch.Tensor:
        ctx.gpu, ctx.seconds = gpu, seconds
        gpu.queue(seconds, HOST_S)
        return value + 1

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ctx.gpu.queue(2 * ctx.seconds, HOST_S)
        return gradients[0], None, None


class Layer(nn.Module):
    """One kernel."""

    def __init__(self, gpu: Gpu, seconds: float) -> None:
        super().__init__()
        self.gpu, self.cost_s = [gpu], seconds
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        done: torch.Tensor = Kernel.apply(value * self.weight, self.gpu[0], self.cost_s)  # type: ignore[no-untyped-call] # torch's gap
        return done

    def __deepcopy__(self, memo: dict[int, Any]) -> "Layer":
        return Layer(Gpu(), self.cost_s)


def kernel_s(layer: int) -> float:
    """Of a layer: the first half has short kernels, the second half long ones."""
    return 3 * US if layer < LAYERS // 2 else 9 * US


def profiled(
    gpu: Gpu, patch: pytest.MonkeyPatch, *, ahead: bool = True, repetitions: int = 3
) -> Profile:
    """A profile of many small kernels."""
    patch.setattr(profiler, "stopwatch", lambda device: gpu)
    if ahead:
        patch.setattr(profiler, "has_head_start", lambda device: True)
        patch.setattr(profiler, "gpu_head_start", gpu.head_start)
    model = nn.Sequential(*(Layer(gpu, kernel_s(layer)) for layer in range(LAYERS)))
    return profile_module(model, torch.ones(2, 3), effort=Effort(2, repetitions))


def ratio_of_halves(profile: Profile) -> float:
    """How many times longer the second half of the layers takes."""
    times = [operator.forward_s + operator.backward_s for operator in profile.operators]
    return sum(times[LAYERS // 2 :]) / sum(times[: LAYERS // 2])


def test_without_a_head_start_every_operator_takes_the_hosts_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault that the head start is against."""
    assert ratio_of_halves(profiled(Gpu(), monkeypatch, ahead=False)) < 1.2


def test_with_a_head_start_operators_take_their_kernels_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = profiled(Gpu(), monkeypatch)
    for layer, operator in enumerate(profile.operators):
        assert operator.forward_s == pytest.approx(kernel_s(layer))
        assert operator.backward_s == pytest.approx(2 * kernel_s(layer))
    assert parts_over_whole(profile) == pytest.approx(1)
    assert profile.metadata["host_ahead"] is True
    assert profile.metadata["host_s"] == pytest.approx(2 * LAYERS * HOST_S)
    (remark,) = remarks_on(profile)
    assert remark.startswith("the host takes 8 ms to queue a pass and the GPU 1.8 ms to run it")


def test_a_marked_pass_gets_ahead_where_the_queue_has_little_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head start for the whole pass would fill the queue, and the host would wait."""
    room = 3 * OPERATORS + 2  # a kernel and its marks, and a sleep
    profile = profiled(Gpu(room), monkeypatch)
    for layer, operator in enumerate(profile.operators):
        assert operator.forward_s == pytest.approx(kernel_s(layer))
    assert profile.metadata["host_ahead"] is False, "the whole pass, without marks, could not"


def test_a_host_that_waits_for_its_gpu_gets_no_head_start() -> None:
    gpu = Gpu()
    head = gpu.head_start()
    for _ in range(16):
        head.begin_pass()
        head.give()
        gpu.queue(1 * US, HOST_S)
        gpu.settle()
        head.end()
        assert head.lost
    assert head.seconds == 0
    before_s = gpu.gpu_s
    head.give()
    head.end()
    assert gpu.gpu_s == before_s, "it sleeps for nothing no more"


def test_a_head_start_is_as_long_as_the_host_needs() -> None:
    gpu = Gpu()
    head = gpu.head_start()
    needs_s = 7e-3
    for number in range(4):
        head.begin_pass()
        head.give()
        gpu.queue(1 * US, needs_s)
        head.end()
        assert head.lost == (number == 0), "the first one is a guess"
        gpu.settle()
    assert head.seconds == pytest.approx(MARGIN * needs_s)


def profile_of(parts_s: float, **metadata: Any) -> Profile:
    """Two operators, the second three times as long as the first; the whole takes 1 ms."""
    operators = tuple(Operator(name, name, part, part, 1, 1) for name, part in times(parts_s))
    return Profile(operators, (("a", "b"),), {"whole_s": 1e-3, "device": "cuda", **metadata})


def times(parts_s: float) -> list[tuple[str, float]]:
    """Forward, or backward, seconds of each operator."""
    return [("a", parts_s / 8), ("b", 3 * parts_s / 8)]


def test_parts_that_disagree_with_the_whole_are_scaled_to_it_and_the_record_says_so() -> None:
    scaled = agreeing(profile_of(1.6e-3, host_ahead=True))
    assert scaled.parts_s == pytest.approx(1e-3)
    assert scaled.operators[1].forward_s == pytest.approx(3 * scaled.operators[0].forward_s)
    assert parts_over_whole(scaled) == pytest.approx(1.6)
    (remark,) = remarks_on(scaled)
    assert remark.startswith("the operators take 1.6 ms one by one, 1.60 times as long")
    assert "scales" in remark


@pytest.mark.parametrize("parts_s", [0.9e-3, 1.1e-3])
def test_parts_that_agree_stay_as_they_are(parts_s: float) -> None:
    profile = profile_of(parts_s, host_ahead=True)
    assert agreeing(profile) is profile


@pytest.mark.parametrize("metadata", [{}, {"host_ahead": False}])
def test_times_with_those_of_the_host_in_them_are_not_scaled(metadata: dict[str, Any]) -> None:
    """On a CPU, and where the host could not get ahead: neither is the GPU's own."""
    profile = profile_of(2e-3, **metadata)
    assert agreeing(profile) is profile


@pytest.mark.parametrize("parts_s", [0.3e-3, 3.1e-3])
def test_a_profile_whose_times_mean_nothing_is_refused(parts_s: float) -> None:
    with pytest.raises(ProfileError, match="farther apart than a factor of 3"):
        agreeing(profile_of(parts_s, host_ahead=True))


def test_what_a_damaged_file_says_of_its_parts_is_not_believed() -> None:
    profile = profile_of(1e-3)
    for value in (True, "1", -1.0, float("nan"), float("inf"), 1e300):
        damaged = dataclasses.replace(
            profile, metadata={**profile.metadata, "parts_over_whole": value}
        )
        assert damaged.parts_over_whole == pytest.approx(1)
