"""What the tests share: one fork server per session, the optional data folder, and a guard against
leaks."""

import glob
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from tests.processes import ranks_of
from tests.rank import programs
from tests.sockets import listening

# The sessions that tests start are not those of a job on GitHub.
for _variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(_variable, None)

# The sessions that tests start are those of CPU ranks, on a machine with GPUs too; tests/gpu
# gives the variable its value back.
USERS_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# How long an example takes depends on the machine.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """One fork server for all tests that start ranks."""
    with ForkServer() as running:
        running.wait_ready()
        yield running


@pytest.fixture
def two_ranks(server: ForkServer) -> Ranks:
    """Two CPU ranks."""
    return Ranks(server, ["cpu"] * 2, threads=1, timeout_s=60)


@pytest.fixture
def patience_s(two_ranks: Ranks) -> float:
    """A time-out for ranks that hang on purpose: long enough that, on this machine and at this
    moment, they get as far as the hang."""
    begun = time.monotonic()
    two_ranks.run(programs.sum_of_ranks)
    return round(2.0 + 4 * (time.monotonic() - begun), 1)


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
def _nothing_is_left_behind() -> Iterator[None]:
    """No test leaves ranks, listening ports, temporary files of a launch or a changed
    environment."""
    variables, ports = _variables(), listening(os.getpid())
    yield
    assert not ranks_of(os.getpid())
    assert set(listening(os.getpid())) <= set(ports)
    assert not glob.glob(f"{tempfile.gettempdir()}/dnnbench-{os.getpid()}-*")
    assert _variables() == variables


def _variables() -> dict[str, str]:
    """The variables, without those that pytest sets for each test and that torch's compiler sets
    when it is first imported."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
    }
