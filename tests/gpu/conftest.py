"""Checks that need a GPU: skipped where there is none. `make gpu-test` runs them.

    pytest tests/gpu --gpu-budget 240 --gpu-folder DIR    what fits into 240 s, most wanted first
    pytest tests/gpu --gpu-tests-on cpu                   the same code, smaller, on CPU ranks

DIR gets gpu-test.json and gpu-test.md, written anew after each check. A check that no longer fits
into the budget is listed there as not run. They run one after the other: 20 ranks that made
contexts at once have been refused the memory for it.
"""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from benchmarks.gpu_facts import card_facts
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.leases import VARIABLE as LEASES
from pytest_dnnbench.controller.machine import detect
from tests.conftest import USERS_GPUS, USERS_LEASES
from tests.gpu.lanes import Lane, LaneBench, LaneOutcome, RunLane, lane_bench
from tests.gpu.outcomes import NOT_RUN, Outcomes

HERE = Path(__file__).parent
ORDER = ("frameworks", "pipelines", "step_forms", "prediction", "session", "breakdown", "preflight")
"""The modules in the order in which they run: first what has never run on a GPU."""

SECONDS = 10.0
"""What a check is expected to take where it does not say: a proof, a plan and a launch."""

OUTCOMES = pytest.StashKey[Outcomes]()
BEGUN_S = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this folder, where it is named on the command line."""
    group = parser.getgroup("checks on a GPU")
    group.addoption("--gpu-tests-on", choices=("cuda", "cpu"), default="cuda")
    group.addoption("--gpu-budget", type=float, metavar="SECONDS", help="no limit without it")
    group.addoption("--gpu-folder", type=Path, metavar="DIR", help="where outcomes are written")


def pytest_configure(config: pytest.Config) -> None:
    """The marks of this folder."""
    config.addinivalue_line("markers", "costs(seconds): what a check takes on a GPU, about")
    config.addinivalue_line("markers", "only_on_a_gpu: it has no form on CPU ranks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the checks of this folder on machines without a GPU; orders them, and announces them,
    where there is one."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if not ours:
        return
    kind = _kind(config)
    with pytest.MonkeyPatch.context() as patch:
        _give_back_the_gpus(patch)
        machine = detect("cpu" if kind == "cpu" else "auto")
    if machine.kind != kind:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        return
    ours.sort(key=_place)
    items[:] = [item for item in items if item not in ours] + ours
    config.stash[BEGUN_S] = time.monotonic()
    if folder := config.getoption("--gpu-folder", None):
        config.stash[OUTCOMES] = Outcomes(folder, card_facts(machine))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Announces the checks that were chosen, and where they run."""
    if outcomes := session.config.stash.get(OUTCOMES, None):
        for name, fact in outcomes.facts.items():
            session.config.get_terminal_writer().line(f"{name}: {fact}")
        session.config.get_terminal_writer().line(f"outcomes: {outcomes.folder}")
        outcomes.expect([item.nodeid for item in session.items if item.path.is_relative_to(HERE)])


def _kind(config: pytest.Config) -> str:
    return str(config.getoption("--gpu-tests-on", "cuda"))


def _place(item: pytest.Item) -> int:
    """Of an item's module in the order."""
    name = item.path.stem.removeprefix("test_")
    return ORDER.index(name) if name in ORDER else len(ORDER)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out a check that no longer fits into the budget, or has no form on CPU ranks."""
    if not item.path.is_relative_to(HERE) or BEGUN_S not in item.config.stash:
        return
    if _kind(item.config) == "cpu" and item.get_closest_marker("only_on_a_gpu"):
        pytest.skip("needs a GPU: it has no form on CPU ranks")
    budget_s = item.config.getoption("--gpu-budget", None)
    if budget_s is None:
        return
    left_s = budget_s - (time.monotonic() - item.config.stash[BEGUN_S])
    costs = item.get_closest_marker("costs")
    needed_s = costs.args[0] if costs else SECONDS
    if left_s < needed_s:
        item.stash[_NO_ROOM] = True
        pytest.skip(
            f"not run: it takes about {needed_s:g} s, and {max(left_s, 0.0):.0f} s are left of the"
            f" budget of {budget_s:g} s"
        )


_NO_ROOM = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes what came of a check as soon as it is known."""
    report = yield
    if (outcomes := item.config.stash.get(OUTCOMES, None)) is None:
        return report
    outcome = outcomes.of(item.nodeid)
    outcome.seconds += report.duration
    outcome.figures |= dict(item.user_properties)
    if report.outcome != "passed":
        no_room = report.skipped and item.stash.get(_NO_ROOM, False)
        outcome.outcome = NOT_RUN if no_room else report.outcome
        skipped = report.longrepr  # of a skip: file, line and reason
        outcome.message = skipped[2] if isinstance(skipped, tuple) else report.longreprtext
    elif report.when == "call":
        outcome.outcome, outcome.message = "passed", ""
    outcomes.write()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what was not run for want of time."""
    outcomes = terminalreporter.config.stash.get(OUTCOMES, None)
    for left in outcomes.left if outcomes else []:
        terminalreporter.write_line(f"not run: {left.check}")


@pytest.fixture(scope="package", autouse=True)
def _the_users_gpus(request: pytest.FixtureRequest) -> Iterator[None]:
    """The GPUs that the other tests do not see, and the leases on them. CPU ranks do as those of
    other tests: they wait for nobody outside of them."""
    with pytest.MonkeyPatch.context() as patch:
        if _kind(request.config) == "cuda":
            _give_back_the_gpus(patch)
        yield


def _give_back_the_gpus(patch: pytest.MonkeyPatch) -> None:
    for name, value in (("CUDA_VISIBLE_DEVICES", USERS_GPUS), (LEASES, USERS_LEASES)):
        if value is None:
            patch.delenv(name, raising=False)
        else:
            patch.setenv(name, value)


@pytest.fixture(scope="package")
def kind(request: pytest.FixtureRequest, _the_users_gpus: None) -> str:
    """The kind of device that the checks run on: "cuda", or "cpu" to try them out."""
    return _kind(request.config)


@pytest.fixture(scope="package")
def bench(kind: str) -> Iterator[LaneBench]:
    """Where lanes run; its fork server serves all checks of this folder."""
    with lane_bench(kind) as running:
        yield running


@pytest.fixture(scope="package")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sessions leave what they printed: beside the outcomes, which stay."""
    given = request.config.getoption("--gpu-folder", None)
    return given.resolve() if given else tmp_path_factory.mktemp("gpu")


@pytest.fixture
def run_lane(bench: LaneBench, request: pytest.FixtureRequest) -> RunLane:
    """Runs a lane, and notes its figures beside the outcome of the check."""

    def run(lane: Lane) -> LaneOutcome:
        outcome = bench.run(lane)
        request.node.user_properties.extend(outcome.figures().items())
        return outcome

    return run


@pytest.fixture(scope="package")
def server(bench: LaneBench) -> ForkServer:
    """The fork server of the bench: in place of that of all other tests, which would take its time
    to start too."""
    return bench.server
