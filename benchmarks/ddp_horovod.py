"""DDP against Horovod: a table over models and ranks, with what explains the difference.

    python -m benchmarks.ddp_horovod [--models resnet18,...] [--ranks 1,2,4]
                                     [--launches 3] [--steps 6]

Three kinds of launches take turns: ranks that exchange nothing, `ddp`, `horovod`. Their step times
show how much of each library's exchange the backward pass does not hide ("exposed"). The exchange
alone, of gradients of the same sizes with nothing else to do, shows how fast each library's
all-reduce is. More ranks than cores are oversubscribed.
"""

import argparse
import os
import statistics
from dataclasses import dataclass, field

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.models import DEFAULT_MODELS
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.job import Rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.results.records.measurement import Launch

WORKERS: dict[str, tuple[str, Rendezvous | None]] = {
    "alone": ("benchmarks.exchange:NoExchange", None),
    "ddp": ("pytest_dnnbench.rank.frameworks.ddp:DdpWorker", None),
    "horovod": ("pytest_dnnbench.rank.frameworks.horovod:HorovodWorker", horovod_rendezvous),
}

HEAD = (
    "model                ranks | ddp img/s  horovod img/s  hvd/ddp |"
    " step without exchange  + ddp  + horovod |"
    " exchange alone: torch  horovod | gradients"
)


@dataclass
class Row:
    """One model on a number of ranks: images per second of each launch, and the exchange alone."""

    model: str
    ranks: int
    batch_size: int
    img_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WORKERS})
    exchange_s: dict[str, float] = field(default_factory=dict)
    gradients: tuple[int, int] = (0, 0)

    def step_ms(self, name: str) -> float:
        """Milliseconds of a step at the median throughput."""
        return 1e3 * self.ranks * self.batch_size / statistics.median(self.img_s[name])

    def __str__(self) -> str:
        ddp, horovod = (statistics.median(self.img_s[name]) for name in ("ddp", "horovod"))
        alone = self.step_ms("alone")
        exposed = [f"{self.step_ms(name) - alone:+8.1f}" for name in ("ddp", "horovod")]
        tensors, size = self.gradients
        exchange = [f"{1e3 * self.exchange_s[name]:.1f} ms" for name in ("torch", "horovod")]
        return (
            f"{self.model:20} {self.ranks:5} | {ddp:9.1f}  {horovod:13.1f}  {horovod / ddp:7.3f} |"
            f" {alone:18.1f} ms {exposed[0]} {exposed[1]} | {exchange[0]:>21} {exchange[1]:>8} |"
            f" {tensors} tensors, {size / 1e6:.1f} MB"
        )


def measure(server: ForkServer, model: str, count: int, settings: argparse.Namespace) -> Row:
    """All launches of one row, the three kinds in turn."""
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    ranks = Ranks(server, ["cpu"] * count, threads=threads, timeout_s=900)
    row = Row(model, count, settings.batch_size)
    case = Case("measured", model, count, "train", batch_size=settings.batch_size)
    target = Catalog().model(model)
    for _ in range(settings.launches):
        for name, (worker, rendezvous) in WORKERS.items():
            request = RunRequest(case, worker, target, steps=settings.steps, warmup=2)
            reports = ranks.launch(MEASURE, request, rendezvous=rendezvous)
            row.img_s[name].append(Launch(tuple(reports)).throughput)
    request = RunRequest(case, "", target, steps=0, warmup=0)
    row.gradients = tuple(ranks.launch("benchmarks.exchange:size_of", request)[0])
    row.exchange_s = {
        "torch": max(ranks.launch("benchmarks.exchange:with_torch", request, 7)),
        "horovod": max(
            ranks.launch(
                "benchmarks.exchange:with_horovod", request, 7, rendezvous=horovod_rendezvous
            )
        ),
    }
    return row


def main() -> None:
    """Prints the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS))
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    settings = parser.parse_args()
    print(HEAD)
    with ForkServer((*PRELOAD, "horovod.torch")) as server:
        for model in settings.models.split(","):
            for count in map(int, settings.ranks.split(",")):
                print(measure(server, model, count, settings), flush=True)


if __name__ == "__main__":
    main()
