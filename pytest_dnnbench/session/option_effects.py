"""What becomes of an option that has no effect in a session (option_rules.py):

    given on the command line          the session is refused in one line
    in the ini file, in addopts, ...   one line of the summary names it: it stands for all sessions

Under pytest-xdist the controller knows what was on the command line, and workers what was
collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.option import Option
from pytest_dnnbench.session.option_rules import Collected, Rule, Session, rules_of
from pytest_dnnbench.session.xdist import Xdist

_GIVEN = "dnnbench_given"
"""Of an xdist worker's input: the options on the controller's command line."""


class OptionEffects:
    """Refuses, or notes for the summary, the options that have no effect."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rules = list(rules_of(config.stash[state.CATALOG].frameworks.values()))
        self._told: dict[str, list[str]] = {}
        self._has_cases = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Asks the rules that need no cases, before pytest-xdist starts its workers."""
        if not state.is_xdist_worker(self._config):
            self._apply(Session(**self._surroundings()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Lets an xdist worker know what was on the command line."""
        node.workerinput[_GIVEN] = [
            option.flag for option, _ in self._rules if option.is_typed(self._config)
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Asks the rules about cases, where there can be any."""
        if state.REFUSED in self._config.stash:
            return
        cases = tuple(map(self._collected, state.cases(session)))
        if not cases:
            return
        self._has_cases = True
        try:
            self._apply(Session(**self._surroundings(), cases=cases))
        except pytest.UsageError as refused:
            state.part(self._config, Xdist).pass_on(refused)
            raise

    def summary(self) -> list[tuple[str, str]]:
        """The options that had no effect, in one line."""
        if not self._told or not (self._has_cases or benchmark_file.records(self._config)):
            return []
        reasons = [f"{', '.join(places)} ({why})" for why, places in self._told.items()]
        return [(f"dnnbench: without effect here: {'; '.join(reasons)}", "yellow")]

    def _surroundings(self) -> dict[str, Any]:
        config = self._config
        return {
            "settings": state.settings(config),
            "is_distributed": config.getoption("dist", "no") != "no",
            # Under -n the summary says so in its own words.
            "is_timed": benchmark_file.is_timed(config) or benchmark_file.is_off_for_xdist(config),
        }

    def _apply(self, session: Session) -> None:
        """Raises pytest.UsageError for the first option of the command line without effect."""
        for option, place, rule in self._without_effect(session):
            if place != option.flag or rule.is_only_told or not self._is_typed(option):
                self._told.setdefault(rule.why, []).append(place)
                continue
            raise pytest.UsageError(
                f"{option.flag} has no effect {rule.why}: {rule.fix}, or leave it out"
            )

    def _without_effect(self, session: Session) -> Iterator[tuple[Option, str, Rule]]:
        """Those that are given, not as their default, and have no effect; each with its place."""
        for option, rule in self._rules:
            if rule.of_cases != (session.cases is not None):
                continue
            place, value = option.given(self._config)
            if place and value not in (option.default, None) and not rule.has_effect(session):
                yield option, place, rule

    def _is_typed(self, option: Option) -> bool:
        if state.is_xdist_worker(self._config):
            typed: list[str] = self._config.workerinput[_GIVEN]  # type: ignore[attr-defined] # xdist adds it
            return option.flag in typed
        return option.is_typed(self._config)

    def _collected(self, item: pytest.Item) -> Collected:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        framework, model = parameters.get("framework"), parameters.get("model")
        models = self._config.stash[state.CATALOG].models
        return Collected(
            framework if isinstance(framework, str) else None,
            models.get(model, model) if isinstance(model, str) else None,
            self._config.stash[state.CHOSEN].get(getattr(item, "function", None), frozenset()),
            item.get_closest_marker("limits") is not None,
        )
