"""`dnnbench profile`: profiles a model, writes the file and prints a summary."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pytest_dnnbench.case import DEVICES, MNIST_IMAGE_SIZE, PRECISIONS
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.outputs import check_file
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.profile_file import write_profile
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.profiling.profiler import (
    Effort,
    had_its_core,
    is_trusted,
    parts_over_whole,
    profile_model,
)

COSTLIEST = 5


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status, 0. Raises UsageError for a model, or a
    condition, that cannot be profiled."""
    options = _parser().parse_args(arguments)
    for name in ("image_size", "batch_size", "threads"):
        if getattr(options, name) < 1:
            raise UsageError(
                f"--{name.replace('_', '-')} is {getattr(options, name)}: it must be at least 1"
            )
    if options.output is not None:
        check_file("-o", options.output)
    profile = (cached_profile if options.cached else profile_model)(
        Catalog().model(options.model),
        options.image_size,
        options.batch_size,
        options.precision,
        options.device,
        threads=options.threads,
        effort=Effort(options.warmup, options.repetitions),
    )
    print(profile_summary(profile))
    if options.output is not None:
        _write(profile, options.output)
    return 0


def profile_summary(profile: Profile) -> str:
    """The profile in a few lines: totals, the sum of the parts beside the whole, the operators that
    take longest."""
    facts = profile.metadata
    forward_s, backward_s = (
        sum(getattr(operator, key) for operator in profile.operators)
        for key in ("forward_s", "backward_s")
    )
    form = facts.get("inputs") or f"{facts['image_size']} px"
    parameters = sum(operator.parameter_bytes for operator in profile.operators)
    results = sum(operator.activation_bytes for operator in profile.operators)
    lines = [
        f"{facts['model']}, {form}, batch {facts['batch_size']},"
        f" {facts['precision']}, {facts['device']}:"
        f" {counted(len(profile.operators), 'operator')}, {counted(len(profile.edges), 'edge')}",
        f"parts: {forward_s * 1e3:.2f} ms forward + {backward_s * 1e3:.2f} ms backward"
        f" = {profile.parts_s * 1e3:.2f} ms",
        f"whole: {facts['whole_s'] * 1e3:.2f} ms; parts / whole = {parts_over_whole(profile):.3f}",
        f"parameters {parameters / 1e6:.2f} MB, results {results / 1e6:.2f} MB",
        "costliest operators:",
    ]
    if not is_trusted(profile):
        lines.insert(
            3,
            "parts and whole disagree: is the machine busy? Profile again, with more --repetitions",
        )
    if not had_its_core(profile):
        lines.insert(
            3,
            "other work was in the way: this process had a core for"
            f" {facts['core_share']:.0%} of the time",
        )
    costliest = sorted(
        profile.operators, key=lambda operator: -(operator.forward_s + operator.backward_s)
    )[:COSTLIEST]
    lines += [
        f"  {operator.forward_s * 1e3:8.3f} ms forward {operator.backward_s * 1e3:8.3f} ms backward"
        f"  {operator.id}"
        for operator in costliest
    ]
    return "\n".join(lines)


def _write(profile: Profile, path: Path) -> None:
    try:
        write_profile(profile, path)
    except OSError as error:
        raise UsageError(f"the profile cannot be written to {path}: {error}") from error
    print(f"written to {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench profile",
        description="Times each operator of a model, forward and backward, on one device.",
    )
    effort = Effort()
    parser.add_argument(
        "--model",
        required=True,
        help="a model of the suite, or package.module:factory of a module or workload",
    )
    for name, default, text in (
        ("--image-size", MNIST_IMAGE_SIZE, "pixels a side"),
        ("--batch-size", 32, "samples in a minibatch"),
        ("--threads", 1, "compute threads on a CPU"),
        ("--repetitions", effort.repetitions, "timed passes"),
        ("--warmup", effort.warmup, "passes before the timed ones"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(%(default)s)")
    parser.add_argument(
        "--device",
        default="cpu",
        help=f"{' or '.join(DEVICES)}, with :INDEX if need be (%(default)s)",
    )
    parser.add_argument(
        "--cached",
        action="store_true",
        help="read the profile from the user's cache, or put it there",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="write this file: JSON, or PipeDream's text for *.txt"
    )
    return parser
