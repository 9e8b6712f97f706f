"""How long a report of a thousand cases takes, and how large its page is.

    python -m benchmarks.report_size [--cases 1000] [--sessions 1]

Made-up records; a fresh process each time, so that imports count. Takes some ten seconds. Fails
beyond the limits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.report.records import session

MOST_SECONDS, MOST_BYTES = 5.0, 5_000_000
FRAMEWORKS, COUNTS = ("single", "ddp", "horovod", "pipedream", "fsdp"), (1, 2, 4, 8)


def main() -> int:
    """Prints seconds and bytes; 1 when one of them is over its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=1)
    asked = parser.parse_args()
    each = 2 * (len(COUNTS) * (len(FRAMEWORKS) - 1) + 1)
    models = [f"model_{number}" for number in range(-(-asked.cases // each))]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for day in range(1, asked.sessions + 1):
            content = session(models, FRAMEWORKS, COUNTS, day=day)
            content["benchmarks"] = content["benchmarks"][: asked.cases]
            files.append(Path(folder, f"{day}.json"))
            files[-1].write_text(json.dumps(content))
        output = Path(folder, "report")
        command = [
            sys.executable,
            "-m",
            "pytest_dnnbench",
            "report",
            *map(str, files),
            "-o",
            str(output),
        ]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        size = output.joinpath("index.html").stat().st_size
        rest = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) - size
    print(f"{asked.cases} cases, {asked.sessions} sessions")
    times = " ".join(f"{second:.2f}" for second in seconds)
    print(f"seconds   {times}   (limit {MOST_SECONDS:g}, fastest counts)")
    print(f"page      {size / 1e6:.2f} MB   (limit {MOST_BYTES / 1e6:g})")
    print(f"other     {rest / 1e6:.2f} MB")
    return int(min(seconds) > MOST_SECONDS or size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
