"""Events of torch's profiler, made by hand, become the right parts: on CPU ranks, and on CUDA
streams that no test here has."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import pytest

from pytest_dnnbench.rank.breakdown.events import (
    CPU_ORDER,
    CUDA_ORDER,
    communication_of,
    cpu_spans,
    cuda_spans,
)
from pytest_dnnbench.rank.breakdown.timeline import Row, divide

MAIN, LOADER, TRANSFER = 1, 5, 6


class Device(Enum):
    CPU = 0
    CUDA = 1


@dataclass
class Made:
    """An event with given answers."""

    named: str
    start: int
    end: int
    thread: int = MAIN
    mark: bool = False
    asynchronous: bool = False
    stream: int | None = None
    number: int = 0
    operator: int = 0

    def name(self) -> str:
        return self.named

    def start_ns(self) -> int:
        return self.start

    def end_ns(self) -> int:
        return self.end

    def start_thread_id(self) -> int:
        return self.thread

    def end_thread_id(self) -> int:
        return self.thread

    def is_async(self) -> bool:
        return self.asynchronous

    def is_user_annotation(self) -> bool:
        return self.mark

    def device_type(self) -> Device:
        return Device.CPU if self.stream is None else Device.CUDA

    def device_resource_id(self) -> int:
        return self.stream or 0

    def correlation_id(self) -> int:
        return self.number

    def linked_correlation_id(self) -> int:
        return self.operator


def on_cpu(*events: Made) -> dict[str, int]:
    result = divide(cpu_spans(events, MAIN), (0, 100), CPU_ORDER)
    return totals(result.ns)


def on_cuda(*events: Made) -> dict[str, int]:
    result = divide(cuda_spans(events, MAIN), (0, 100), CUDA_ORDER)
    return totals(result.ns)


def totals(rows: Mapping[Row, int]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for (part, _), ns in rows.items():
        summed[part] = summed.get(part, 0) + ns
    return summed


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gloo:all_reduce", "communication"),
        ("c10d::allreduce_", "communication"),
        ("_c10d_functional::wait_tensor", "communication"),
        ("nccl:_all_gather_base", "communication"),
        (
            "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage)",
            "communication",
        ),
        ("gloo:recv", "bubble"),
        ("c10d::send", "bubble"),
        ("nccl:recv 0<-1", "bubble"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage)", "bubble"),
        ("gloo:reduce_scatter", "communication"),
        ("aten::mm", None),
        ("DistributedDataParallel.forward", None),
    ],
)
def test_names_of_communication(name: str, part: str | None) -> None:
    assert communication_of(name) == part


def test_a_step_of_ddp_on_cpu_ranks() -> None:
    assert on_cpu(
        Made("dnnbench::data", 0, 10, mark=True),
        Made("aten::randn", 2, 8),
        Made("DistributedDataParallel.forward", 10, 30, mark=True),
        Made("aten::linear", 12, 28),
        Made("autograd::engine::evaluate_function: AddmmBackward0", 30, 60),
        Made("aten::mm", 32, 58),
        # On a thread of gloo's own, from before the end of the backward pass.
        Made("gloo:all_reduce", 50, 75, thread=2, mark=True, asynchronous=True),
        Made("Optimizer.step#AdamW.step", 75, 95, mark=True),
        Made("aten::add_", 80, 90),
    ) == {"data": 10, "compute": 46, "communication": 15, "optimizer": 20, "idle": 9}


def test_what_other_threads_do_ahead_of_need_is_no_part_of_the_step() -> None:
    assert on_cpu(
        Made("aten::stack", 0, 100, thread=LOADER),
        Made("dnnbench::bubble: activations", 10, 60, mark=True),
        Made("gloo:recv", 0, 100, thread=TRANSFER, mark=True, asynchronous=True),
        Made("dnnbench::communication: receive", 40, 60, thread=TRANSFER, mark=True),
    ) == {"bubble": 30, "communication": 20, "idle": 50}


def test_a_pipeline_that_receives_in_its_own_thread_waits_in_a_bubble() -> None:
    """As the schedules of torch.distributed.pipelining do."""
    receive = Made("gloo:recv", 10, 60, mark=True, asynchronous=True)
    assert on_cpu(receive, Made("aten::mm", 60, 90)) == {"bubble": 50, "compute": 30, "idle": 20}


def test_what_a_mark_inside_the_backward_pass_waits_for_is_communication() -> None:
    """As FSDP waits for the reduction of a block's gradients. It counted as compute."""
    assert on_cpu(
        Made("autograd::engine::evaluate_function: RegisterPostBackwardFunction", 0, 80),
        Made("FSDP::post_backward_reduce (blocks.1)", 10, 70, mark=True),
        Made("aten::cat", 10, 20),
        Made("gloo:reduce_scatter", 15, 60, thread=2, mark=True, asynchronous=True),
    ) == {"compute": 30, "communication": 40, "idle": 30}


def test_a_mark_of_a_part_that_does_not_exist_is_no_part() -> None:
    assert on_cpu(Made("dnnbench::sleeping", 0, 50, mark=True)) == {"idle": 100}


def test_on_cuda_the_kernels_count_and_the_host_only_where_no_stream_works() -> None:
    assert on_cuda(
        # The host: its operators only launch.
        Made("dnnbench::data", 0, 20, mark=True),
        Made("aten::mm", 20, 22, number=7),
        Made("Optimizer.step#SGD.step", 24, 30, mark=True),
        Made("aten::_fused_sgd_", 25, 28, number=9),
        # The device, two streams.
        Made("sgemm", 10, 40, stream=7, operator=7),
        Made("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 30, 60, stream=20),
        Made("multi_tensor_apply_kernel", 60, 75, stream=7, operator=9),
        Made("Optimizer.step#SGD.step", 60, 75, stream=7, mark=True),
    ) == {"data": 10, "compute": 30, "communication": 20, "optimizer": 15, "idle": 25}


def test_a_call_of_cudas_runtime_is_not_taken_for_the_operator_of_its_number() -> None:
    """The runtime numbers its calls as torch numbers operators, from the same small numbers on: a
    kernel of the backward pass counted as the optimiser's, and the other way round."""
    assert on_cuda(
        Made("aten::mm", 0, 4, number=1),
        Made("cudaLaunchKernel", 1, 2, number=2, operator=1),
        Made("Optimizer.step#SGD.step", 10, 30, mark=True),
        Made("aten::_fused_sgd_", 11, 20, number=2),
        Made("aten::mm", 40, 44, number=3),
        Made("cudaLaunchKernel", 12, 13, number=1, operator=2),
        Made("cudaLaunchKernel", 41, 42, number=2, operator=3),
        Made("sgemm", 30, 60, stream=7, number=2, operator=1),
        Made("multi_tensor_apply_kernel", 60, 80, stream=7, number=1, operator=2),
    ) == {"compute": 30, "optimizer": 20, "idle": 50}


def test_a_host_that_waits_for_its_gpu_is_idle_where_no_kernel_runs() -> None:
    """The call is told from the rest of the idle time, whatever thread it says it is of."""
    events = (
        Made("aten::item", 0, 60, number=1),
        Made("cudaStreamSynchronize", 10, 50, thread=0, number=2, operator=1),
        Made("kernel", 0, 40, stream=7, operator=1),
    )
    result = divide(cuda_spans(events, MAIN), (0, 100), CUDA_ORDER)
    assert result.ns == {
        ("compute", "kernel"): 40,
        ("idle", "cudaStreamSynchronize"): 10,
        ("idle", ""): 50,
    }
    assert result.calls["cudaStreamSynchronize"] == 1
