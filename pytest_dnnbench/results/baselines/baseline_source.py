"""Where the baseline of `--dnn-baseline` comes from: latest, NAME or NUMBER of a storage folder, or
a path."""

from pathlib import Path

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.baselines.golden_file import is_golden, read_golden
from pytest_dnnbench.results.baselines.stored_sessions import (
    Baseline,
    StoredRuns,
    read_fit,
    storage_runs,
)
from pytest_dnnbench.results.records.json_text import read_bytes


def load_baseline(source: str, storage: Path, saved_as: str | None = None) -> Baseline:
    """The baseline; without a session where `saved_as`, the NAME of the present one, has none yet.
    Raises UsageError for one that is not there, DataError for one that is damaged
    or not fit."""
    path = Path(source)
    if path.is_file() or path.suffix == ".json" or len(path.parts) > 1:
        return read_baseline(path)
    return storage_runs(storage, source, saved_as)


def read_baseline(path: Path) -> Baseline:
    """A golden file, or a file that pytest-benchmark saved. Raises DataError for anything else."""
    if path.is_dir():
        raise DataError(
            f"{path} is a folder: name a file,"
            f" or use `--benchmark-storage {path} --dnn-baseline latest`"
        )
    if is_golden(read_bytes(path)):
        return read_golden(path)
    return StoredRuns((), newest=read_fit(path))
