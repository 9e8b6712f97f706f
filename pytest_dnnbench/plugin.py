"""The pytest plugin: options, hooks and fixtures. Wiring only; torch is never imported in this
process.

The life of a run: 1 options become Settings; 2 collection parameterises the cases; 3 the fork
server starts while pytest collects; 4 each round launches every case once (rounds.py), the first
launch of a case after its proof; 5 the last round makes the record; 6 speed-up is added and
pytest-benchmark writes the file; 7 the table is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dnnbench import hookspecs
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.session import journal, progress, rounds, saving, verdicts, xdist
from pytest_dnnbench.session.settings import Settings, add_options, read_settings
from pytest_dnnbench.session.verdicts import Gate

if TYPE_CHECKING:
    from pytest_dnnbench.controller.pipeline_stages import PipelineStages
    from pytest_dnnbench.controller.ranks import Ranks
    from pytest_dnnbench.session.bench import DnnBench
    from pytest_dnnbench.session.resources import Resources

SETTINGS = pytest.StashKey[Settings]()
CATALOG = pytest.StashKey[Catalog]()
WORKSHOP = pytest.StashKey["Resources"]()

PARAMETERS = ("framework", "model", "gpus")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options and their ini twins."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Adds the hooks by which others add frameworks and models."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Checks every option before anything starts."""
    frameworks = [row for rows in config.hook.pytest_dnnbench_frameworks() for row in rows]
    models = {
        name: path for rows in config.hook.pytest_dnnbench_models() for name, path in rows.items()
    }
    config.stash[CATALOG] = Catalog().with_rows(frameworks, models)
    try:
        settings = config.stash[SETTINGS] = read_settings(config, config.stash[CATALOG])
        if settings.report and not hasattr(config, "workerinput"):
            from pytest_dnnbench.session.report import SessionReport

            config.pluginmanager.register(SessionReport(settings.report), "dnnbench-report")
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(progress, "dnnbench_live_setup")
    config.pluginmanager.register(xdist, "dnnbench_parallel_setup")
    config.pluginmanager.register(journal, "dnnbench_resume_setup")
    if not xdist.is_worker(config):
        config.pluginmanager.register(saving.KeepSafe(), "dnnbench_keep_safe")
    config.pluginmanager.register(Gate(config), verdicts.NAME)
    if settings.effect is not None:
        from pytest_dnnbench.session.launch_planning import AutoLaunches

        config.pluginmanager.register(AutoLaunches(settings.effect), "dnnbench_auto_launches")


def workshop(config: pytest.Config) -> Resources:
    """What the session's cases share; made at first use."""
    if WORKSHOP not in config.stash:
        from pytest_dnnbench.session.resources import Resources

        try:
            config.stash[WORKSHOP] = Resources(
                config.stash[SETTINGS],
                config.stash[CATALOG],
                timed=timing(config),
                side_by_side=xdist.is_worker(config),
                announce=lambda line: announce(config, line),
            )
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[WORKSHOP]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parameterises `framework`, `model` and `gpus` with what the options ask for, where the test
    has not done it."""
    wanted = [name for name in PARAMETERS if name in metafunc.fixturenames]
    marked = {
        name
        for mark in metafunc.definition.iter_markers("parametrize")
        for name in _names(mark.args[0])
    }
    if "dnnbench" not in metafunc.fixturenames or not wanted or marked.intersection(wanted):
        return
    rows = workshop(metafunc.config).combinations(wanted)
    metafunc.parametrize(
        wanted,
        [
            pytest.param(*row, id="-".join(_id(*pair) for pair in zip(wanted, row, strict=True)))
            for row in rows
        ],
    )


@pytest.hookimpl(tryfirst=True)
def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Reads `4gpu` where a test gives its own counts."""
    return _id(argname, val) if argname == "gpus" and isinstance(val, int) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives every case a replay clock as pytest-benchmark's timer, keeping the author's own
    settings."""
    from pytest_dnnbench.session.replay_clock import ReplayClock

    for item in items:
        if "dnnbench" in getattr(item, "fixturenames", ()):
            mark = item.get_closest_marker("benchmark")
            settings = {**(mark.kwargs if mark else {}), "timer": ReplayClock()}
            item.add_marker(pytest.mark.benchmark(**settings), append=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts the fork server, whose imports take seconds, when ranks will be needed."""
    used = any(
        {"dnnbench", "process_group"} & set(getattr(item, "fixturenames", ()))
        for item in session.items
    )
    if used and not session.config.option.collectonly:
        workshop(session.config).server.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Checks the data, then runs all rounds but the last before pytest's own loop."""
    config = session.config
    if rounds.measured(session) and not config.option.collectonly:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        announce: Callable[[str], None] = (
            reporter.write_line if reporter and config.option.verbose >= 0 else _silent
        )
        try:
            workshop(config).data()
        except DnnbenchError as error:
            raise pytest.UsageError(str(error)) from None
        if timing(config):
            rounds.run_early_rounds(session, config.stash[SETTINGS].rounds, announce)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Reports a case that failed in an early round instead of running it again."""
    return rounds.replay_failure(item) or None


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Adds speed-up and efficiency before pytest-benchmark writes the file."""
    if WORKSHOP in session.config.stash:
        from pytest_dnnbench.results.records.record import relate

        relate(workshop(session.config).records)
    return (yield)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Says what ranks will run on, for sessions that have asked for this plugin."""
    given = any(
        value is not None for key, value in vars(config.option).items() if key.startswith("dnn_")
    )
    return f"dnnbench: {workshop(config).machine.describe()}" if given else None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Shows the table."""
    if WORKSHOP in config.stash and (records := workshop(config).records):
        import shutil

        from pytest_dnnbench.report.disturbances import disturbances
        from pytest_dnnbench.report.table import render, study_of
        from pytest_dnnbench.session.typed_record import typed

        named = {f"case {number}": typed(record) for number, record in enumerate(records)}
        machine = workshop(config).machine
        terminalreporter.section("dnnbench")
        terminalreporter.write_line(machine.describe())
        terminalreporter.write_line("")
        for line in render(study_of(named), shutil.get_terminal_size().columns):
            terminalreporter.write_line(line.text, **dict.fromkeys(line.markup, True))
        if line_about := disturbances(named.values()):
            terminalreporter.write_line(line_about, yellow=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the fork server, and with it any rank."""
    if WORKSHOP in config.stash:
        config.stash[WORKSHOP].server.close()


@pytest.fixture
def process_group(request: pytest.FixtureRequest) -> Callable[[int], Ranks]:
    """`process_group(world_size)` gives the ranks of a distributed process group.

    `ranks.run(function, *args)` calls a top-level function on every rank, in fresh processes, and
    returns one result per rank. Skips the test when there are not so many devices.
    """
    shop = workshop(request.config)

    def ranks(world_size: int) -> Ranks:
        if reason := shop.machine.shortage(world_size):
            pytest.skip(reason)
        return shop.ranks(world_size)

    return ranks


@pytest.fixture
def pipeline_stages(process_group: Callable[[int], Ranks]) -> Callable[..., PipelineStages]:
    """`pipeline_stages(model, stages)` gives the running stage ranks of a model; stages as in 3 or
    "2-1"."""
    from pytest_dnnbench.controller import pipeline_stages as pipelines

    def stages_of(model: Any, stages: Any, **settings: Any) -> PipelineStages:
        return pipelines.pipeline_stages(process_group, model, stages, **settings)

    return stages_of


@pytest.fixture
def dnnbench(benchmark: Any, request: pytest.FixtureRequest) -> DnnBench:
    """`dnnbench.measure(framework, model, ranks, phase=...)` proves, measures and records a
    case."""
    from pytest_dnnbench.session.bench import DnnBench

    return DnnBench(workshop(request.config), request.node, benchmark)


def timing(config: pytest.Config) -> bool:
    """Whether cases are timed: not with --benchmark-disable or -skip."""
    session = getattr(config, "_benchmarksession", None)
    return session is not None and not session.disabled and not session.skip


def announce(config: pytest.Config, line: str) -> None:
    """A line past the capture of a running test's output; workers of xdist have no terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            reporter.write_line(line)


def _names(argument: str | list[str] | tuple[str, ...]) -> list[str]:
    return (
        [name.strip() for name in argument.split(",")]
        if isinstance(argument, str)
        else list(argument)
    )


def _id(name: str, value: object) -> str:
    return f"{value}gpu" if name == "gpus" else str(value)


def _silent(_: str) -> None:
    return None
