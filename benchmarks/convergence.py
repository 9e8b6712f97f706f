"""Does the pipeline learn as well as data parallelism? Accuracy on held-out digits after the same
number of images.

    python -m benchmarks.convergence --data-dir FOLDER [--epochs 4] [--seeds 3]

resnet18 on real MNIST digits: `ddp` on two ranks, and `pipedream` in two and in four stages, all
with minibatches of 32 images per rank, the same initial weights and optimiser. The pipelines should
be within one point of `ddp`.
"""

import argparse
import statistics
from dataclasses import replace

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.mnist_files import MnistFiles, find_mnist
from pytest_dnnbench.results.records.measurement import Launch

BATCH_SIZE = 32


def accuracy(
    server: ForkServer, files: MnistFiles, framework: str, stages: int, images: int, seed: int
) -> float:
    """Percent of the held-out digits that are recognised after training on this many images."""
    pipeline = framework != "ddp"
    ranks = stages if pipeline else 2
    options: dict[str, Scalar] = {"stages": str(stages)} if pipeline else {}
    case = Case(
        framework,
        "resnet18",
        ranks,
        "train",
        "mnist",
        batch_size=BATCH_SIZE,
        seed=seed,
        options=options,
    )
    spec, target = Catalog().framework(framework), Catalog().model("resnet18")
    per_step = BATCH_SIZE * (1 if pipeline else ranks)
    request = RunRequest(
        case, spec.worker, target, steps=images // per_step - 1, warmup=1, data=files
    )
    group = Ranks(server, ["cpu"] * ranks, threads=1, timeout_s=3600)
    if spec.planning:
        request = replace(request, plan=group.launch(spec.planning, request)[0])
    launch = Launch(tuple(group.launch(MEASURE, request)))
    reached = launch.validation_accuracy
    assert reached is not None
    print(
        f"  {framework:16} {ranks} ranks, seed {seed}: {100 * reached:.2f}%,"
        f" {launch.throughput:.0f} img/s",
        flush=True,
    )
    return 100 * reached


def main() -> None:
    """Trains each framework once per seed and prints the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    settings = parser.parse_args()
    files = find_mnist(settings.data_dir)
    images = settings.epochs * files.train_count
    print(f"resnet18, {files.split}; {images} images of training")
    with ForkServer() as server:
        server.wait_ready()
        for framework, stages in (("ddp", 0), ("pipedream", 2), ("pipedream", 4)):
            reached = [
                accuracy(server, files, framework, stages, images, seed)
                for seed in range(settings.seeds)
            ]
            name = f"{framework} in {stages} stages" if stages else framework
            print(
                f"{name}: mean {statistics.fmean(reached):.2f}%, lowest {min(reached):.2f}%",
                flush=True,
            )


if __name__ == "__main__":
    main()
