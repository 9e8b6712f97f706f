"""What the tests share: a fork server for the session, the optional data folder, and a guard
against leaks."""

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
from tests.rank import programs

# The time that an example takes is the machine's affair.
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
    """A time-out for ranks that are to hang: long enough, on this machine at this moment, to come
    to that point."""
    begun = time.monotonic()
    two_ranks.run(programs.sum_of_ranks)
    return round(2.0 + 4 * (time.monotonic() - begun), 1)


@pytest.fixture
def shared_data() -> Path:
    """The folder of data that is not part of the project; tests that want it also have a small one
    of their own."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            "needs the real data, which is not part of the project; a self-made equivalent runs beside it"
        )
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No test leaves temporary files of a launch or a changed environment."""
    before = _environment()
    yield
    assert not glob.glob(f"{tempfile.gettempdir()}/dnnbench-{os.getpid()}-*")
    assert _environment() == before


def _environment() -> dict[str, str]:
    """Without what pytest sets for each test, and what torch's compiler sets when first
    imported."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
    }
