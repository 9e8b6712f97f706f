"""The life of the fork server: started while pytest still collects, ended with the session."""

from contextlib import ExitStack, suppress

import pytest

from pytest_dnnbench.controller.nvml import close_nvml
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.session import state
from pytest_dnnbench.session.resources import resources, resources_in_use


class ServerLife:
    """Starts and ends the fork server."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Starts the server, whose imports take seconds, when ranks will be needed. Raises
        pytest.UsageError under pytest-forked."""
        if any(map(state.needs_ranks, session.items)) and not session.config.option.collectonly:
            if self._config.getoption("forked", False):
                raise pytest.UsageError(
                    "--forked cannot be used with tests that start ranks: the fork of the pytest"
                    " process cannot talk to the fork server; leave it out, for every launch runs"
                    " in fresh processes anyway"
                )
            with suppress(LaunchError):  # the first launch tries again, and its case fails
                resources(self._config).start()

    def pytest_unconfigure(self) -> None:
        """Ends the server, and with it any rank, and gives NVML up."""
        if shared := resources_in_use(self._config):
            with ExitStack() as ends:  # one that fails or is interrupted does not keep the others
                ends.callback(close_nvml)
                ends.callback(shared.compile_cache.close)
                ends.callback(shared.close)
