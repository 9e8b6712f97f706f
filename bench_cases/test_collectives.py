"""The collectives that training stands on, over sizes: of torch.distributed (gloo on CPU ranks,
NCCL on GPUs) and of Horovod. Each value of a step is checked before it is timed.

    pytest bench_cases/test_collectives.py --gpus 2 --collective-sizes 64KiB,1MiB
"""

from collections.abc import Callable

import pytest

from pytest_dnnbench import DnnBench, Ranks

ProcessGroup = Callable[[int], Ranks]

NAMES = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "broadcast": "Broadcast",
    "all_to_all": "AllToAll",
    "send_recv": "SendRecv",
}
LACKING = {("horovod", "send_recv"): "Horovod has no send and receive between two ranks"}


@pytest.mark.parametrize(
    ("library", "collective"),
    [
        pytest.param(
            library,
            collective,
            marks=[pytest.mark.skip(reason=LACKING[library, collective])]
            if (library, collective) in LACKING
            else [],
        )
        for library in ("torch", "horovod")
        for collective in NAMES
    ],
)
def test_collective(
    library: str,
    collective: str,
    size: int,
    gpus: int,
    process_group: ProcessGroup,
    dnnbench: DnnBench,
) -> None:
    """One collective, again and again on the same buffers."""
    prefix = "Horovod" if library == "horovod" else ""
    dnnbench.time(
        f"pytest_dnnbench.rank.collectives:{prefix}{NAMES[collective]}",
        process_group(gpus),
        arguments={"size": size},
        check="pytest_dnnbench.rank.collectives:check",
        framework=library,
        collective=collective,
    )
