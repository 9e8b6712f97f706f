"""What the plugin adds to `pytest --help`: interleaved pairs with and without it, whole processes.

    python -m benchmarks.help_time [--pairs 15]

The difference of the medians should be at most 60 ms.
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds(*options: str) -> float:
    """Wall time of one `pytest --help`."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "--help", "-c", "/dev/null", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Prints both medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = [(seconds(), seconds("-p", "no:dnnbench")) for _ in range(parser.parse_args().pairs)]
    ours, without = (statistics.median(side) for side in zip(*pairs, strict=True))
    added = statistics.median(with_it - without_it for with_it, without_it in pairs)
    print(
        f"pytest --help: {ours:.3f} s with the plugin, {without:.3f} s without; added, median of pairs: {added:.3f} s"
    )


if __name__ == "__main__":
    main()
