"""The hooks. pytest imports this module in the controlling process: it must not import torch."""

from collections.abc import Mapping, Sequence

from pytest_dnnbench import FrameworkOption, FrameworkSpec, Metric


def pytest_dnnbench_frameworks() -> Sequence[FrameworkSpec]:
    """`allreduce`: data parallelism that exchanges gradients after the backward pass."""
    return [
        FrameworkSpec(
            "allreduce",
            worker="dnnbench_allreduce.worker:AllreduceWorker",
            about="all gradients in few all-reduces, after the backward pass",
            prediction="pytest_dnnbench.rank.prediction:predict",
            options=(
                FrameworkOption(
                    "buckets", "allreduce-buckets", 1, "all-reduces that share the gradients"
                ),
            ),
        )
    ]


def pytest_dnnbench_models() -> Mapping[str, str]:
    """`lenet`, an image classifier, and `autoencoder`, a workload: both small enough for a first
    try on any machine."""
    return {
        "lenet": "dnnbench_allreduce.models:lenet",
        "autoencoder": "dnnbench_allreduce.workloads:Autoencoder",
    }


def pytest_dnnbench_metrics() -> Sequence[Metric]:
    """`exchange_time_s`: what overlapping the exchange with the backward pass could save;
    `exchanged_bytes`: what one rank puts into the all-reduces of a step."""
    return [
        Metric(
            "exchanged_bytes",
            unit="B",
            better="lower",
            label="gradients exchanged",
            over_ranks="max",
            exact=True,
            tolerance=0.01,
            scales={"KiB": 2.0**10, "MiB": 2.0**20},
        ),
        Metric(
            "exchange_time_s",
            unit="s",
            better="lower",
            label="exchange of gradients",
            over_ranks="max",
            timed=True,
            tolerance=0.05,
            scales={"ms": 1e-3},
        ),
    ]
