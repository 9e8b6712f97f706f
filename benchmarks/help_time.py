"""What the plugin adds to `pytest --help`: interleaved pairs with and without it, whole processes.

    python -m benchmarks.help_time [--pairs 15]

The difference should be at most 60 ms. A first run that does not count compiles the modules, as
most runs find them compiled. Without a cache of bytecode (PYTHONDONTWRITEBYTECODE) the difference
is twice as large.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time


def seconds(folder: str, *options: str) -> float:
    """Wall time of one `pytest --help`, in a folder without conftest files (they would count)."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "--help", "-c", "/dev/null", *options]
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=environment)
    return time.monotonic() - started


def main() -> None:
    """Prints both medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    count = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        seconds(folder)
        pairs = [(seconds(folder), seconds(folder, "-p", "no:dnnbench")) for _ in range(count)]
    ours, without = (statistics.median(side) for side in zip(*pairs, strict=True))
    added = statistics.median(with_plugin - plain for with_plugin, plain in pairs)
    print(f"pytest --help: {ours:.3f} s with the plugin, {without:.3f} s without")
    print(f"added by the plugin, median of the pairs: {added:.3f} s")


if __name__ == "__main__":
    main()
