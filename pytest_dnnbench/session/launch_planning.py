"""`--dnn-launches auto`: the launches of each case, planned once from the baseline's noise before
anything is measured.

Every xdist worker plans for itself, from the same baseline and all cases of the session, and so
comes to the same number; it has no terminal, so the controller shows the plan from the records, at
the end.
"""

from dataclasses import replace

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.verdicts.launch_plan import LaunchPlan, plan_launches, plans_of
from pytest_dnnbench.session import state
from pytest_dnnbench.session.baseline import SessionBaseline
from pytest_dnnbench.session.benchmark_file import is_timed, records
from pytest_dnnbench.session.resources import resources


class LaunchPlanning:
    """Plans where --dnn-launches is auto; does nothing else."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Puts the planned number in the place of the default, before the journal and the display
        ask for it."""
        config, effect = self._config, state.settings(self._config).effect
        cases = state.cases(session)
        if effect is None or not cases or config.option.collectonly or not is_timed(config):
            return
        try:
            plan = self._plan(effect, cases)
        except UsageError as error:
            if state.is_xdist_worker(config):
                return  # the controller reads the same baseline and refuses it
            raise state.refused(error, self._config) from None
        shared = resources(config)
        shared.launch_plan = plan
        shared.settings = replace(shared.settings, launches=plan.launches)
        config.stash[state.SETTINGS] = shared.settings
        state.announce(config, f"dnnbench: {plan}")
        self._shown = not state.is_xdist_worker(config)

    def summary(self) -> list[tuple[str, str]]:
        """What xdist workers planned. Their plans differ only if the baseline changed while they
        started."""
        if self._shown:
            return []
        plans = plans_of(records(self._config).values())
        return [(f"dnnbench: {plan}", "") for plan in plans]

    def _plan(self, effect: float, cases: list[pytest.Item]) -> LaunchPlan:
        baseline = state.part(self._config, SessionBaseline)
        settings = state.settings(self._config)
        return plan_launches(
            effect,
            baseline.read(),
            {item.nodeid: baseline.layers(item) for item in cases},
            false_alarms=settings.false_alarms,
            at_least=settings.launches,
            device=resources(self._config).machine.kind,
        )
