"""pytest's entry point: options, hooks, fixtures, and which parts a session has. Imported by
nobody; torch is never imported in this process.

The life of a run: 1 options become Settings; 2 collection parameterises the cases; 3 the fork
server starts while pytest collects (session/server.py); 4 each round launches every case once
(session/rounds.py), the first launch of a case after its proof; 5 the last round makes the record
and judges it (session/bench.py, session/verdicts.py); 6 pytest-benchmark writes the file; 7 the
summary is shown (session/summary.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dnnbench import hookspecs

if TYPE_CHECKING:
    from pytest_dnnbench.controller.pipeline_stages import PipelineStages
    from pytest_dnnbench.controller.ranks import Ranks
    from pytest_dnnbench.session.bench import DnnBench

PARAMETERS = ("framework", "model", "gpus")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds our options and those of the built-in frameworks, with their ini twins."""
    from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
    from pytest_dnnbench.session.option import add_options, framework_options
    from pytest_dnnbench.session.settings import OPTIONS

    add_options(parser, (*OPTIONS, *framework_options(FRAMEWORKS)))


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Adds the hooks by which others add frameworks, models and metrics."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser
) -> Generator[None, object, object]:
    """Adds the options of third parties' frameworks: their packages and conftest files are loaded
    now, and the command line is not parsed for good yet."""
    from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
    from pytest_dnnbench.errors import UsageError
    from pytest_dnnbench.session import hook_rows, state
    from pytest_dnnbench.session.option import add_options, framework_options

    result = yield
    ours = {option.flag for option in framework_options(FRAMEWORKS)}
    try:
        rows = framework_options(hook_rows.catalog(early_config).frameworks.values())
        add_options(parser, [option for option in rows if option.flag not in ours])
    except UsageError as error:
        raise state.refused(error, early_config) from None
    return result


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Checks every option before anything starts, then adds the parts of the session, in the order
    in which their hooks are called where pytest leaves it open."""
    from pytest_dnnbench.errors import UsageError
    from pytest_dnnbench.metrics import add_metrics, drop_metrics
    from pytest_dnnbench.session import hook_rows, state
    from pytest_dnnbench.session.settings_reading import read_settings

    try:
        catalog = hook_rows.catalog(config)
        config.stash[state.CHOSEN] = {}
        config.stash[state.ENGINES] = hook_rows.engines(config)
        added = add_metrics(hook_rows.metrics(config))
        config.add_cleanup(lambda: drop_metrics(added))  # another session has other hooks
        settings = config.stash[state.SETTINGS] = read_settings(config, catalog)
        config.stash[state.CATALOG] = catalog.behind(settings.path)
    except UsageError as error:
        raise state.refused(error, config) from None
    if not config.option.help:  # which starts no session, and need not wait for the imports
        from pytest_dnnbench.session.parts import parts_of

        for part in parts_of(config):
            state.add_part(config, part)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parameterises those of `framework`, `model` and `gpus` that the test takes and has not
    parameterised itself with what the options ask for."""
    from pytest_dnnbench.errors import UsageError
    from pytest_dnnbench.session import state
    from pytest_dnnbench.session.resources import resources

    if "dnnbench" not in metafunc.fixturenames:
        return
    marks = metafunc.definition.iter_markers("parametrize")
    marked = {name for mark in marks for name in state.parametrised(mark)}
    left_open = [
        name for name in PARAMETERS if name in metafunc.fixturenames and name not in marked
    ]
    if not left_open:
        return
    try:
        shared = resources(metafunc.config)
        combinations = shared.combinations
        names = combinations.parameters(left_open)
        rows = [
            pytest.param(*row, id=combinations.id_of(names, row, shared.nodes_for))
            for row in combinations.rows(names)
        ]
    except pytest.UsageError as error:
        metafunc.config.stash[state.REFUSED] = error
    except UsageError as error:
        metafunc.config.stash[state.REFUSED] = state.refused(error, metafunc.config)
    else:
        metafunc.config.stash[state.CHOSEN][metafunc.function] = frozenset(names)
        metafunc.parametrize(
            names, rows, indirect=[name for name in names if name not in left_open]
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Ends the session in one line for options that no case can have: where they are noticed,
    pytest would take them for an error of each file, and show its traceback."""
    from pytest_dnnbench.session import state
    from pytest_dnnbench.session.xdist import Xdist

    result = yield
    if refused := session.config.stash.get(state.REFUSED, None):
        state.part(session.config, Xdist).pass_on(refused)
        raise refused
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Reads `4gpu` where a test gives its own counts."""
    from pytest_dnnbench.case import devices_id
    from pytest_dnnbench.session import state
    from pytest_dnnbench.session.resources import resources, runs_on_nodes

    if argname != "gpus" or not isinstance(val, int):
        return None
    try:
        nodes = resources(config).nodes_for(val) if runs_on_nodes(config) else 1
    except pytest.UsageError as error:  # which ends the session when all files are collected
        config.stash[state.REFUSED] = error
        nodes = 1
    return devices_id(val, nodes)


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Says what ranks will run on, for sessions that have asked for this plugin, and why their
    energy is not recorded where it could be."""
    from pytest_dnnbench.powercap import why_unreadable
    from pytest_dnnbench.session import state
    from pytest_dnnbench.session.resources import resources

    if not state.has_options(config):
        return None
    note = why_unreadable()
    lines = [resources(config).machine.describe(), *([note] if note else [])]
    return [f"dnnbench: {line}" for line in lines]


@pytest.fixture
def process_group(request: pytest.FixtureRequest) -> Callable[[int], Ranks]:
    """`process_group(world_size)` gives the ranks of a distributed process group.

    `ranks.run(function, *args)` calls a top-level function on every rank, in fresh processes, and
    returns one result per rank. Skips the test when there are not so many devices.
    """
    from pytest_dnnbench.session.resources import resources

    shared = resources(request.config)

    def ranks(world_size: int) -> Ranks:
        if type(world_size) is not int or world_size < 1:
            pytest.fail(
                f"process_group({world_size!r}): give a whole number of ranks from 1",
                pytrace=False,
            )
        if reason := shared.machine.shortage(world_size):
            pytest.skip(reason)
        return shared.ranks(world_size)

    return ranks


@pytest.fixture
def pipeline_stages(
    request: pytest.FixtureRequest, process_group: Callable[[int], Ranks]
) -> Callable[..., PipelineStages]:
    """`pipeline_stages(model, stages)` gives the running stage ranks of a model; stages as in 3 or
    "2-1"."""
    from pytest_dnnbench.controller import pipeline_stages as pipelines
    from pytest_dnnbench.session.state import CATALOG

    def stages_of(model: Any, stages: Any, **settings: Any) -> PipelineStages:
        return pipelines.pipeline_stages(
            process_group, model, stages, catalog=request.config.stash[CATALOG], **settings
        )

    return stages_of


@pytest.fixture
def dnn_shape(request: pytest.FixtureRequest) -> str:
    """The parallel shape of a case, as tp2xdp2; empty in a session without --dnn-shapes."""
    return getattr(request, "param", "")


@pytest.fixture
def dnnbench(benchmark: Any, request: pytest.FixtureRequest, dnn_shape: str) -> DnnBench:
    """`dnnbench.measure(framework, model, ranks, phase=...)` proves, measures and records a
    case."""
    from pytest_dnnbench.session.bench import DnnBench
    from pytest_dnnbench.session.resources import resources

    return DnnBench(resources(request.config), request.node, benchmark, dnn_shape)
