"""`--dnn-launches auto`: the launches of each case, planned once from the baseline's noise before
anything is measured.

Every worker of pytest-xdist plans for itself, from the same baseline and all cases of the session,
and so comes to the same number; it has no terminal, so the controller tells of the plan from the
records, at the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dnnbench import plugin
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session import verdicts
from pytest_dnnbench.session.xdist import is_worker

if TYPE_CHECKING:
    from pytest_dnnbench.results.verdicts.launch_plan import LaunchPlan


class AutoLaunches:
    """Registered where --dnn-launches is auto."""

    def __init__(self, effect: float) -> None:
        self._effect = effect
        self._told = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Puts the planned number in the place of the default, before the journal and the display
        ask for it."""
        config = session.config
        cases = [item for item in session.items if "dnnbench" in getattr(item, "fixturenames", ())]
        if not cases or config.option.collectonly or not plugin.timing(config):
            return
        try:
            plan = self._plan(config, cases)
        except UsageError as error:
            if is_worker(config):
                return  # the controller reads the same baseline and refuses it
            raise pytest.UsageError(str(error)) from None
        shop = plugin.workshop(config)
        shop.launch_plan = plan
        shop.settings = config.stash[plugin.SETTINGS] = replace(
            shop.settings, launches=plan.launches
        )
        self._tell(config, [plan])

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, config: pytest.Config) -> None:
        """Says what workers planned. They differ only if the baseline changed while they
        started."""
        if not self._told and plugin.WORKSHOP in config.stash:
            from pytest_dnnbench.results.verdicts.launch_plan import plans_of

            self._tell(config, plans_of(plugin.workshop(config).records))

    def _plan(self, config: pytest.Config, cases: list[pytest.Item]) -> LaunchPlan:
        from pytest_dnnbench.results.verdicts.launch_plan import plan_launches

        judge: Any = config.pluginmanager.get_plugin(verdicts.NAME)
        settings = config.stash[plugin.SETTINGS]
        return plan_launches(
            self._effect,
            judge.baseline(),
            {item.nodeid: judge.layers(item) for item in cases},
            false_alarms=settings.false_alarms,
            at_least=settings.launches,
        )

    def _tell(self, config: pytest.Config, plans: list[LaunchPlan]) -> None:
        for plan in plans:
            plugin.announce(config, f"dnnbench: {plan}")
        self._told = not is_worker(config)
