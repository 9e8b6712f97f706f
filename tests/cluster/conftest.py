"""Two connected agents on this machine, shared by the tests of a module."""

from collections.abc import Iterator

import pytest

from pytest_dnnbench.controller.cluster import Cluster
from tests.cluster.nodes import cluster, pinned


@pytest.fixture(scope="module")
def two_agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes on this machine, which share its network."""
    with cluster(pinned(), tmp_path_factory.mktemp("leases")) as nodes:
        yield nodes
