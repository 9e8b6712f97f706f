"""Our pipeline runtime beside torch.distributed.pipelining's Schedule1F1B: same stages, same
microbatch.

    python -m benchmarks.pipeline [--models resnet18,resnet50] [--microbatches 4,8,16]
                                  [--pairs 5] [--variant pipedream]

Two CPU ranks of one thread each, in fresh processes for each side of each pair, the sides taking
turns to be first. Both sides run the same two stages on the same images, with torch's fused SGD,
momentum and weight decay.

    ours, pipedream        an update after every microbatch, no drain: m times the updates of theirs
    ours, pipedream-2bw    an update after m microbatches, no drain
    ours, pipedream-flush  an update after m microbatches, with a drain: the mathematics of theirs
    theirs                 an update after m microbatches, with a drain

A drain costs (n-1)/(m+n-1) of the time with n even stages: with two, theirs can be at best m/(m+1)
of a full pipeline, so no rate without a drain can be above (m+1)/m of it at equal work: 1.25, 1.125
and 1.0625 for m = 4, 8, 16, less where stages are uneven. Images per second, ours / theirs, should
be at least 1.15 for pipedream with m = 4. Each launch of ours also times its stages alone, both
ranks at once and without any transfer: ours / ideal, the ideal being 1 / the slowest stage's time
with its update, should be at least 0.9 (flush: of that, m/(m+1)). Processor time per microbatch and
rank is printed too: it hardly depends on other work on the machine, and separates work from
waiting.
With two models and three m, five pairs take some ten minutes on two idle cores.
"""

import argparse
import statistics

from benchmarks.pairs import compare
from benchmarks.pipeline_sides import Groups, ours, plan_groups, theirs
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.planner.schedule import VARIANTS


def main() -> None:
    """Prints a comparison for each model and number of microbatches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="resnet18,resnet50")
    parser.add_argument("--microbatches", default="4,8,16")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--size", type=int, default=32, help="images per microbatch")
    parser.add_argument(
        "--steps", type=int, default=64, help="timed microbatches, rounded down to whole batches"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, default="pipedream")
    settings = parser.parse_args()
    with ForkServer() as server:
        server.wait_ready()
        ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=600)
        planner = Ranks(server, ["cpu"], threads=1, timeout_s=600)
        for model in map(Catalog().model, settings.models.split(",")):
            (groups,) = planner.run(plan_groups, model, settings.image_size, settings.size)
            for microbatches in map(int, settings.microbatches.split(",")):
                case = (model, settings.image_size, groups, settings.size, microbatches)
                batches = max(1, settings.steps // microbatches)
                report(ranks, settings.variant, case, batches, settings.pairs)


def report(
    ranks: Ranks, variant: str, case: tuple[str, int, Groups, int, int], batches: int, pairs: int
) -> None:
    """One row: ours / theirs and ours / ideal."""
    ideals, bubbles, alone = list[float](), list[float](), list[list[float]]()
    our_work, their_work = list[list[float]](), list[list[float]]()

    def our_rate() -> float:
        answers = ranks.run(ours, variant, *case, batches)
        alone.append([1e3 * answer["alone_s"] for answer in answers])
        our_work.append([1e3 * answer["cpu_s"] for answer in answers])
        rate: float = min(answer["img_s"] for answer in answers)
        ideals.append(rate * max(answer["alone_s"] for answer in answers) / case[3])
        bubbles.append(max(answer["bubble"] for answer in answers))
        return rate

    def their_rate() -> float:
        answers = ranks.run(theirs, *case, batches)
        their_work.append([1e3 * answer["cpu_s"] for answer in answers])
        return float(min(answer["img_s"] for answer in answers))

    name = (
        f"{variant}, {case[0]} at {case[1]} px, {case[3]} images per microbatch,"
        f" {case[4]} microbatches per batch"
    )
    compare(name, our_rate, their_rate, pairs, "img/s")
    print(f"  ours / ideal: median {statistics.median(ideals):.3f} (lowest {min(ideals):.3f})")
    for what, times in (
        ("stages alone, ms", alone),
        ("our processor time, ms", our_work),
        ("their processor time, ms", their_work),
    ):
        per_rank = ", ".join(f"{statistics.median(rank):.1f}" for rank in zip(*times, strict=True))
        print(f"  {what} per microbatch and rank: {per_rank}")
    print(f"  our largest bubble: median {statistics.median(bubbles):.3f}\n", flush=True)


if __name__ == "__main__":
    main()
