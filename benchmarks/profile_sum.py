"""How well the operators' times add up to the whole model's: the ratio for the four models of the
suite.

Fails if a ratio is off by more than 15%. Run it on a quiet machine: `python
benchmarks/profile_sum.py`.
"""

import argparse
import sys

from pytest_dnnbench.case import PRECISIONS
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.models import DEFAULT_MODELS
from pytest_dnnbench.rank.profiling.profiler import (
    Effort,
    is_trusted,
    parts_over_whole,
    profile_model,
)


def main() -> int:
    """Prints one row per model and returns 1 if any sum is too far from its whole."""
    options = _parser().parse_args()
    print(
        f"{options.image_size} px, batch {options.batch_size}, {options.precision},"
        f" {options.device}, {options.threads} threads\n"
    )
    print(f"{'model':18}{'operators':>10}{'parts ms':>10}{'whole ms':>10}{'parts / whole':>15}")
    trusted = [_row(model, options) for model in options.models]
    return 0 if all(trusted) else 1


def _row(model: str, options: argparse.Namespace) -> bool:
    profile = profile_model(
        Catalog().model(model),
        options.image_size,
        options.batch_size,
        options.precision,
        options.device,
        threads=options.threads,
        effort=Effort(repetitions=options.repetitions),
    )
    ratio = parts_over_whole(profile)
    parts_ms, whole_ms = profile.parts_s * 1e3, profile.metadata["whole_s"] * 1e3
    print(
        f"{model:18}{len(profile.operators):10}{parts_ms:10.2f}{whole_ms:10.2f}{ratio:15.3f}",
        flush=True,
    )
    return is_trusted(profile)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=15)
    return parser


if __name__ == "__main__":
    sys.exit(main())
