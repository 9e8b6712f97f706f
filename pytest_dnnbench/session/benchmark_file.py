"""pytest-benchmark's session: what we ask of it and what we change in it. The only file that does.

Most of it is undocumented (`config._benchmarksession`, its `benchmarks`, `disabled`,
`xdist_warning`, `handle_saving` and what makes it save), so a new release of pytest-benchmark is
met here alone.

A case's record is a `Record` in its benchmark's `extra_info`. It becomes plain data where
pytest-benchmark writes it (`make_plain`) and where it leaves this process (`pack`, `unpack`).
"""

import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.outputs import check_file, check_folder
from pytest_dnnbench.results.records.schema import Record, SessionEntry
from pytest_dnnbench.starting import started

KEY = "dnnbench"
"""Of a record in a benchmark's `extra_info`, and of our entry in a saved file."""


def _session(config: pytest.Config) -> Any:
    return getattr(config, "_benchmarksession", None)


def is_timed(config: pytest.Config) -> bool:
    """Whether cases are timed: not with --benchmark-disable or --benchmark-skip."""
    session = _session(config)
    return session is not None and not session.disabled and not session.skip


def is_ours(benchmark: Any) -> bool:
    """Whether a benchmark of pytest-benchmark is a case of ours."""
    return KEY in benchmark.extra_info


def records(config: pytest.Config) -> dict[str, Record]:
    """The records of this session, by the name that pytest gives the case."""
    session = _session(config)
    benchmarks = session.benchmarks if session and not session.disabled else []
    return {
        benchmark.fullname: benchmark.extra_info[KEY]
        for benchmark in benchmarks
        if is_ours(benchmark) and not benchmark.has_error
    }


def attach(benchmark: Any, record: Record) -> None:
    """Puts a case's record into the `benchmark` fixture of its test, which saves it."""
    benchmark.extra_info[KEY] = record


def drop_earlier(config: pytest.Config, fullname: str) -> None:
    """Drops what an earlier run of the same test has left, as pytest-rerunfailures makes them: a
    file that holds a case twice could not be read again."""
    benchmarks = _session(config).benchmarks
    benchmarks[:] = [
        each for each in benchmarks if not (is_ours(each) and each.fullname == fullname)
    ]


def make_plain(output: dict[str, Any], session: SessionEntry) -> None:
    """Makes the records in pytest-benchmark's output plain data, and adds the session's entry. The
    benchmarks themselves keep their records."""
    for benchmark in output["benchmarks"]:
        if KEY in benchmark["extra_info"]:
            record = benchmark["extra_info"][KEY]
            benchmark["extra_info"] = {
                **benchmark["extra_info"],
                KEY: msgspec.to_builtins(record),
            }
    output[KEY] = msgspec.to_builtins(session)


def storage_folder(config: pytest.Config) -> Path:
    """The folder with the saved sessions of this machine. Raises UsageError where sessions are not
    stored in files."""
    storage = _session(config).storage
    path = getattr(storage, "path", None)
    if path is None:
        raise UsageError(
            f"--dnn-baseline reads files, but --benchmark-storage is {storage}: give a folder"
        )
    return Path(path, storage.default_machine_id or "")


def storage_root(config: pytest.Config) -> Path | None:
    """The folder of --benchmark-storage; None where sessions are not stored in files."""
    storage: str | None = config.getoption("benchmark_storage", None)  # absent: -p no:benchmark
    if storage is None:
        return None
    kind, separator, rest = storage.partition("://")
    if separator and kind != "file":
        return None
    return Path(rest if separator else storage).absolute()


def is_stored(config: pytest.Config) -> bool:
    """Whether pytest-benchmark saves the session in its storage."""
    session = _session(config)
    return session is not None and bool(session.save or session.autosave)


def saved_as(config: pytest.Config) -> str | None:
    """The NAME of --benchmark-save."""
    session = _session(config)
    return session.save or None if session is not None else None


def json_target(config: pytest.Config) -> str | None:
    """The file of --benchmark-json, which pytest-benchmark writes whole."""
    return getattr(config.option, "benchmark_json", None)


def watch_saving(
    config: pytest.Config, failed: Callable[[Exception, str, list[dict[str, Any]]], None]
) -> None:
    """From now on an error of saving calls `failed(error, where, benchmarks)` instead of ending the
    session; `benchmarks` is what could not be saved.

    Any error: besides a full disk or a read-only folder, pytest-benchmark's own storages and hooks
    of others raise what they like, and no figure that was measured is to be lost by that.
    """
    session = _session(config)
    if session is None:
        return
    from pytest_benchmark.logger import PytestBenchmarkWarning

    save, machine_info = session.handle_saving, session.get_machine_info
    # It executes some programs, such as dmesg.
    session.get_machine_info = lambda: started(machine_info)

    def guarded() -> None:
        try:
            with warnings.catch_warnings():
                # Where every test failed, pytest-benchmark warns that it saves nothing. Under
                # `filterwarnings = error` that warning would hide the failures in a traceback.
                warnings.simplefilter("always", PytestBenchmarkWarning)
                save()
        except Exception as error:
            if not any(map(is_ours, session.benchmarks)):
                raise  # other people's benchmarks are other people's affair
            failed(error, " and ".join(_targets(session)), packed(config))

    session.handle_saving = guarded


def watch_display(config: pytest.Config, failed: Callable[[Exception], None]) -> None:
    """From now on an error of pytest-benchmark's table or histogram calls `failed(error)` instead
    of hiding what pytest has to say about the tests. Its own verdicts stay errors."""
    session = _session(config)
    if session is None:
        return
    from pytest_benchmark.session import PerformanceRegression

    display = session.display

    def guarded(terminal: Any) -> None:
        try:
            display(terminal)
        except (PerformanceRegression, pytest.UsageError):
            raise
        except Exception as error:
            if not any(map(is_ours, session.benchmarks)):
                raise
            failed(error)

    session.display = guarded


def check_histogram(config: pytest.Config) -> None:
    """Raises UsageError where pytest-benchmark lacks what draws its histograms: it would notice
    after the last case."""
    drawn = getattr(_session(config), "histogram", None)
    lacking = [name for name in ("pygal", "pygaljs") if find_spec(name) is None]
    if drawn and lacking:
        raise UsageError(
            f"--benchmark-histogram needs {' and '.join(lacking)}, not installed here: pip"
            " install 'pytest-benchmark[histogram]', or leave it out (--dnn-report DIR draws"
            " without)"
        )


def check_targets(config: pytest.Config) -> None:
    """Raises UsageError where the session is to be saved in a file or a folder that cannot be
    written to."""
    session = _session(config)
    if session.json:
        check_file("--benchmark-json", Path(session.json))
    path = getattr(session.storage, "path", None)
    if path is not None and (session.save or session.autosave):
        check_folder("--benchmark-storage", Path(path))


def _targets(session: Any) -> list[str]:
    targets = [str(getattr(session.json, "name", session.json))] if session.json else []
    # Not `storage.location`: that raises for a folder outside the working directory.
    storage = getattr(session.storage, "path", session.storage)
    return targets + ([str(storage)] if session.save or session.autosave else [])


def is_used(benchmark: Any) -> bool:
    """Whether the `benchmark` fixture of a test has been used; pytest-benchmark allows it once."""
    return bool(benchmark._mode)


def excuse(benchmark: Any) -> None:
    """Takes back the duty to use the `benchmark` fixture, of a test that has failed or was
    interrupted: otherwise pytest-benchmark's warning makes a second failure of it, or an internal
    error, under `filterwarnings = error`."""
    benchmark.skipped = True


# Under pytest-xdist


def is_off_for_xdist(config: pytest.Config) -> bool:
    """Whether pytest-benchmark has switched itself off because the session is distributed."""
    session = _session(config)
    return bool(session is not None and session.xdist_warning)


def time_under_xdist(config: pytest.Config) -> None:
    """Switches pytest-benchmark on again; in an xdist worker it measures and saves nothing."""
    session = _session(config)
    session.xdist_warning = session.disabled = False
    if hasattr(config, "workerinput"):
        session.save = session.autosave = session.json = None
        session.benchmarks.clear()


def take_packed(config: pytest.Config) -> list[dict[str, Any]]:
    """Takes the benchmarks of the test that has just run, as plain data that a report can carry."""
    session = _session(config)
    benchmarks = packed(config)
    session.benchmarks.clear()
    return benchmarks


def add_packed(config: pytest.Config, benchmark_data: dict[str, Any]) -> None:
    """Hands a benchmark of an xdist worker to pytest-benchmark, which saves and compares it."""
    benchmark = unpack(benchmark_data)
    drop_earlier(config, benchmark.fullname)
    _session(config).benchmarks.append(benchmark)


def packed(config: pytest.Config) -> list[dict[str, Any]]:
    """All benchmarks of the session as plain data, without those of tests that raised."""
    session = _session(config)
    benchmarks = session.benchmarks if session else []
    return [pack(benchmark) for benchmark in benchmarks if not benchmark.has_error]


def pack(benchmark: Any) -> dict[str, Any]:
    """What pytest-benchmark keeps of one benchmark, as plain data."""

    def plain(value: object) -> object:
        return msgspec.to_builtins(value) if isinstance(value, Record) else str(value)

    return dict(json.loads(json.dumps(benchmark.as_dict(include_data=True), default=plain)))


def unpack(plain: dict[str, Any]) -> Any:
    """The same benchmark, as pytest-benchmark keeps it."""
    from pytest_benchmark import stats

    metadata: Any = stats.Metadata
    names = ("name", "fullname", "group", "param", "params", "extra_info")
    fixture = SimpleNamespace(
        **{name: plain[name] for name in names}, cprofile_stats=None, has_error=False
    )
    if KEY in fixture.extra_info:
        attach(fixture, msgspec.convert(fixture.extra_info[KEY], Record))
    benchmark = metadata(fixture, plain["stats"]["iterations"], plain["options"])
    for duration in plain["stats"]["data"]:
        benchmark.stats.update(duration)
    return benchmark
