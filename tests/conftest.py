"""What the tests share: one fork server per session, the optional data folder, and a guard against
leaks."""

import glob
import importlib
import os
import pkgutil
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import pytest_dnnbench
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.leases import VARIABLE as LEASES
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.session.resources import preload_of
from tests.patience import HANG_S
from tests.processes import ranks_of
from tests.sockets import listening

# The sessions that tests start are not those of a job on GitHub, nor workers of this one.
for _variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "PYTEST_XDIST_WORKER"):
    os.environ.pop(_variable, None)

# They have no use for Hypothesis, whose plugin imports all of it at the end of every session: more
# than a third of the time that a session without ranks takes.
INNER_OPTIONS = "-p no:hypothesispytest"
os.environ["PYTEST_ADDOPTS"] = INNER_OPTIONS

# The sessions that tests start are those of CPU ranks, on a machine with GPUs too; tests/gpu
# gives the variable its value back.
USERS_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# They wait for each other's devices, not for those of the user's other sessions.
USERS_LEASES = os.environ.get(LEASES)

# How long an example takes depends on the machine, and every run has the same examples: new ones
# are looked for with --hypothesis-profile=default.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the directory of leases; workers of pytest-xdist have that of their controller."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="dnnbench-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ[LEASES] = folder.name


@pytest.fixture
def pytester(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, _sessions_modules: None
) -> pytest.Pytester:
    """pytest's own, which takes the variable away, fit for sessions in this process: a file that is
    written twice in a second is read twice, and pytest does not warn that an editable install of
    this package was imported before it could rewrite its assertions."""
    monkeypatch.setenv("PYTEST_ADDOPTS", INNER_OPTIONS)
    monkeypatch.setattr(
        pytest_dnnbench, "__doc__", f"{pytest_dnnbench.__doc__} PYTEST_DONT_REWRITE"
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return pytester


@pytest.fixture(scope="session")
def _sessions_modules() -> None:
    """Imports what a session may import. pytester forgets the modules that a session in this
    process was the first to import, and libraries in C cannot be imported twice."""
    for library in ("numpy", "scipy.special", "matplotlib.backends.backend_svg"):
        importlib.import_module(library)
    for module in pkgutil.walk_packages(pytest_dnnbench.__path__, "pytest_dnnbench."):
        if not module.name.startswith(("pytest_dnnbench.rank", "pytest_dnnbench.__main__")):
            importlib.import_module(module.name)


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """One fork server for all tests that start ranks."""
    with ForkServer(preload_of(Catalog())) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def two_ranks(server: ForkServer) -> Ranks:
    """Two CPU ranks."""
    return Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)


@pytest.fixture
def shared_data() -> Path:
    """The folder of data that is not part of the project. Each test that uses it has a twin that
    makes a small equivalent for itself."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            "needs the real data, which is not part of the project; a twin of this test runs with"
            " an equivalent"
        )
    return folder


@pytest.fixture(autouse=True)
def _random_numbers_repeat() -> None:
    """Each test draws the same numbers in every run, whichever tests ran before it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No test leaves ranks, listening ports, temporary files of a launch or a changed
    environment."""
    variables, ports, folders = _variables(), listening(os.getpid()), _folders()
    yield
    assert not ranks_of(os.getpid())
    assert set(listening(os.getpid())) <= set(ports)
    assert _folders() <= folders
    assert _variables() == variables


def _folders() -> set[str]:
    """The folders of launches, and what a process that had this one's number before has left."""
    return set(glob.glob(f"{tempfile.gettempdir()}/dnnbench-{os.getpid()}-*"))


def _variables() -> dict[str, str]:
    """The variables, without those that pytest sets for each test and that torch's compiler sets
    when it is first imported."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
    }
