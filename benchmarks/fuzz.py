"""Damages valid files of every kind and reads them: whatever is neither read nor refused in one
clear line is a fault.

    python -m benchmarks.fuzz [--count 10000] [--seed 0] [--kinds compare,journal]
    python -m benchmarks.fuzz --only journal:123          one input again; its files stay

Every input follows from its kind and its seed. Faults are shown once for each place in the code,
with the input that shows it. Some 400 inputs a second on one core, all kinds together; a small run
of each kind is a test (tests/fuzz). Exit status 1 when there was a fault.
"""

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest_dnnbench
from benchmarks.fuzz_kinds import Kind, all_kinds

PACKAGE = Path(pytest_dnnbench.__file__).parent
MOST_MEMORY = 2 * 2**30
"""Bytes that an input of a few kilobytes may take, all libraries that are loaded meanwhile
included."""

SLOW_S = 30.0
"""Inputs of a few kilobytes that take longer are shown; a report takes some seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One input that was neither read nor refused. `place` is where in this package it came to
    light; `seconds` is how long it took."""

    kind: str
    seed: int
    place: str
    error: str
    seconds: float


def main() -> int:
    """Prints a line per kind and one per fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", default="", help="these kinds only")
    parser.add_argument("--only", default="", metavar="KIND:SEED", help="one input")
    asked = parser.parse_args()
    kinds = {kind.name: kind for kind in all_kinds()}
    if asked.only:
        name, _, seed = asked.only.rpartition(":")
        return _once(kinds[name], int(seed))
    chosen = [kinds[name] for name in asked.kinds.split(",") if name] or list(kinds.values())
    total = sum(kind.share for kind in chosen)
    faults = 0
    for kind in chosen:
        seeds = range(asked.seed, asked.seed + max(1, round(asked.count * kind.share / total)))
        start = time.monotonic()
        by_place: dict[tuple[str, str], list[Fault]] = {}
        for fault in fuzz(kind, seeds):
            by_place.setdefault((fault.place, fault.error.partition(":")[0]), []).append(fault)
        seconds = time.monotonic() - start
        count = sum(map(len, by_place.values()))
        print(
            f"{kind.name:10} {len(seeds):8,} inputs {seconds:7.1f} s {count:6,} faults", flush=True
        )
        for (place, _), same in by_place.items():
            print(f"    {len(same)} at {place}: {same[0].error}")
            print(f"        again: --only {kind.name}:{same[0].seed}", flush=True)
        faults += count
    return 1 if faults else 0


def fuzz(kind: Kind, seeds: Sequence[int]) -> Iterator[Fault]:
    """The faults among the inputs of these seeds."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder, _strict():
        for seed in seeds:
            start = time.monotonic()
            try:
                _read(kind, seed, Path(folder, "files"))
            except Exception as error:
                yield _fault(kind, seed, error, time.monotonic() - start)
            else:
                seconds = time.monotonic() - start
                if seconds > SLOW_S:
                    yield Fault(kind.name, seed, "slow", f"slow: {seconds:.1f} s", seconds)


def _read(kind: Kind, seed: int, folder: Path) -> None:
    """Writes the files with one of them damaged, and reads them."""
    chance = random.Random(f"{kind.name}:{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in kind.files.items():
        folder.joinpath(name).write_bytes(content)
    if kind.mutations:
        name = chance.choice(kind.mutated or tuple(kind.files))
        mutated = chance.choice(kind.mutations)(kind.files[name], chance)
        folder.joinpath(name).write_bytes(mutated)
    kind.read(folder, chance)


def _fault(kind: Kind, seed: int, error: Exception, seconds: float) -> Fault:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    last = (ours or frames)[-1]
    place = f"{Path(last.filename).name}:{last.lineno} {last.name}"
    return Fault(kind.name, seed, place, f"{type(error).__name__}: {str(error)[:300]}", seconds)


def _once(kind: Kind, seed: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"files: {folder / 'files'}")
    with _strict():
        _read(kind, seed, folder / "files")
    print("read or refused")
    return 0


@contextmanager
def _strict() -> Iterator[None]:
    """Warnings are errors, as an overflow of numpy's, and so is memory beyond MOST_MEMORY; nothing
    waits for the disk."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with warnings.catch_warnings(), mock.patch.object(os, "fsync"):
        warnings.simplefilter("error")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_MEMORY, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _memory() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
