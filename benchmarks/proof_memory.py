"""Peak memory of proofs: of every rank, in float64 copies of the model's weights.

    python -m benchmarks.proof_memory [FRAMEWORK:RANKS ...] [--model MODEL] [--image-size PIXELS]
        [--option NAME=yes]

A row per framework: by rank, the growth of the resident set's peak (VmHWM) from the begin of the
rank's proof to its end, without pages of files, over 8 bytes per parameter. The default model is a
perceptron of 20 million parameters in square layers, whose activations are small beside its
weights.
"""

import argparse
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.case_run import load
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.timed_run import prove
from pytest_dnnbench.rank.workloads.checks import model_of
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.mlp import Mlp

MODEL = "benchmarks.proof_memory:twenty_million"
CASES = ("single:1", "ddp:2", "horovod:2", "fsdp:2", "pipedream:2", "gpipe:2")
TIMEOUT_S = 900.0

twenty_million = partial(Mlp, 1024, 19)


def resident(key: str) -> int:
    """VmHWM, RssAnon or RssFile of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    value = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
    assert value is not None, "the kernel counts memory in kB"
    return int(value[1]) * 1024


def peak_of_proof(place: Place, request: RunRequest) -> dict[str, Any]:
    """Proves on this rank: the growth of its peak, the bytes of a float64 copy of the weights, and
    what failed."""
    # The factory may use random numbers, which proofs seed.
    with torch.device("meta"):
        model = model_of(workload_of(request))
    copy = 8 * sum(each.numel() for each in model.parameters())
    before = resident("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")
    proven = prove(place, request)
    return {
        "bytes": resident("VmHWM") - resident("RssFile") - before,
        "copy": copy,
        "failures": list(proven.failures),
    }


def peaks(server: ForkServer, case: Case) -> list[Any]:
    """What the ranks of a proof return."""
    ranks, model = case.gpus, case.model
    spec = Catalog().framework(case.framework)
    launched = Ranks(server, ["cpu"] * ranks, threads=1, timeout_s=TIMEOUT_S)
    request = RunRequest(case, spec.worker, Catalog().model(model), steps=1, warmup=0)
    if spec.planning:
        request = replace(request, plan=launched.launch(spec.planning, request)[0])
    rendezvous = load(spec.rendezvous)
    return launched.launch("benchmarks.proof_memory:peak_of_proof", request, rendezvous=rendezvous)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--option", action="append", default=[])
    chosen = parser.parse_args()
    with ForkServer() as server:
        server.wait_ready()
        for each in chosen.cases:
            framework, _, ranks = each.partition(":")
            case = Case(
                framework,
                chosen.model,
                int(ranks or 1),
                "train",
                batch_size=4,
                image_size=chosen.image_size,
                options={name.partition("=")[0]: True for name in chosen.option},
            )
            rows = peaks(server, case)
            copies = "  ".join(f"{row['bytes'] / row['copy']:5.2f}" for row in rows)
            gib = max(row["bytes"] for row in rows) / 2**30
            failed = [failure for row in rows for failure in row["failures"]]
            print(
                f"{each:16} copies by rank {copies}   most {gib:.2f} GiB  {failed or ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
