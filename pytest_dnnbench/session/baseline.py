"""What the session is compared with: the baseline, read once before anything is measured, the
limits that the user set in their order, and the cases that the user left out on purpose."""

from collections.abc import Collection, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.harmless import refusal
from pytest_dnnbench.results.baselines.anchor_source import AnchorSource, load_anchor
from pytest_dnnbench.results.baselines.baseline_source import load_baseline
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline, ComparedWith, NoBaseline
from pytest_dnnbench.results.baselines.comparability import (
    CASE_FACTS,
    fact_names,
    facts_of,
    nearest_facts,
)
from pytest_dnnbench.results.baselines.limits import Limit, parse_limit_list
from pytest_dnnbench.results.baselines.stored_sessions import Baseline
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.verdicts.foresight import foresee
from pytest_dnnbench.session import benchmark_file, case_marks, state
from pytest_dnnbench.session.resources import resources
from pytest_dnnbench.session.selection import is_chosen

_DESELECTED = "dnnbench-deselected"


class SessionBaseline:
    """One per session. `deselected`: the node ids that the user left out."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._baseline: Baseline | None = None
        self._anchor: AnchorSource | None = None
        self._layers: list[Mapping[str, Limit]] = []
        self._misused: dict[str, str] = {}
        self.deselected: set[str] = set()
        for marker in case_marks.MARKERS:
            config.addinivalue_line("markers", marker)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Checks every limit, before pytest-xdist starts its workers."""
        settings = state.settings(self._config)
        try:
            self._layers = [
                parse_limit_list(settings.limits, "--dnn-limits"),
                parse_limit_list(settings.ini_limits, "dnn_limits in the ini file"),
            ]
        except UsageError as error:
            raise state.refused(error, self._config) from None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Checks every mark of a case before anything starts; those of other tests are not ours.
        What a worker of pytest-xdist refuses would be shown as an internal error: there the case
        itself fails, and is not measured."""
        for item in filter(state.is_case, items):
            try:
                case_marks.marked_limits(item)
                case_marks.known_regression(item)
            except UsageError as error:
                if not state.is_xdist_worker(self._config):
                    raise state.refused(error, self._config) from None
                self._misused[item.nodeid] = refusal(error)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Fails a case whose marks are wrong."""
        if item.nodeid in self._misused:
            pytest.fail(self._misused[item.nodeid], pytrace=False)

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Keeps the cases that the user left out."""
        self.deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Reads the baseline before anything is measured, and says what it lets the session
        detect. Refuses a session whose baseline is required and cannot be used."""
        settings = state.settings(self._config)
        if not session.config.option.collectonly:
            try:
                if settings.baseline:
                    self._check_across(self.read())
                if settings.require_baseline and benchmark_file.is_timed(self._config):
                    self._require(state.cases(session))
            except UsageError as error:
                raise state.refused(error, self._config) from None
            self._foresee(state.cases(session))
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Tells the controller of pytest-xdist, which collects nothing itself, what was left
        out."""
        if state.is_xdist_worker(self._config):
            output: dict[str, Any] = self._config.workeroutput  # type: ignore[attr-defined] # xdist adds it
            output[_DESELECTED] = sorted(self.deselected)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hears from an xdist worker what the user left out."""
        self.deselected |= set(getattr(node, "workeroutput", {}).get(_DESELECTED, ()))

    @property
    def current(self) -> Baseline | None:
        """The baseline, once it has been read; None without --dnn-baseline."""
        return self._baseline

    def how_to_store(self) -> str:
        """How later sessions get something to be compared with."""
        if benchmark_file.is_stored(self._config):
            return "this one is saved: the next one is compared with those of its cases that pass"
        return "save one with --benchmark-autosave"

    def read(self) -> Baseline:
        """What --dnn-baseline names, read once. Raises UsageError where it cannot be a baseline."""
        if self._baseline is None:
            settings = state.settings(self._config)
            source = settings.baseline or ""
            baseline = load_baseline(
                source,
                benchmark_file.storage_folder(self._config),
                benchmark_file.saved_as(self._config),
            )
            self._refuse_overwriting("--dnn-baseline", source)
            if settings.effect is not None and not baseline.names():
                raise UsageError(
                    f"--dnn-launches auto: --dnn-baseline {source} holds no usable"
                    f" session{_why_not(baseline)}:"
                    " first save a few with --benchmark-save and a number of launches, as in"
                    " --dnn-launches 3"
                )
            if settings.anchor is not None:
                self._refuse_overwriting("--dnn-anchor", settings.anchor)
                self._anchor = load_anchor(
                    settings.anchor, benchmark_file.storage_folder(self._config)
                )
            self._baseline = baseline
        return self._baseline

    def _require(self, cases: list[pytest.Item]) -> None:
        """Raises UsageError where --dnn-require-baseline could only fail every case, after all of
        them were measured."""
        required, baseline = "--dnn-require-baseline", self._baseline
        if baseline is None:
            raise UsageError(f"{required}: there is no --dnn-baseline: name one, as in latest")
        source = f"--dnn-baseline {state.settings(self._config).baseline}"
        if not baseline.names():
            raise UsageError(
                f"{required}: {source} holds no usable session{_why_not(baseline)}: save one"
                " without this option first, with --benchmark-autosave"
            )
        if cases and not any(baseline.stored(case.nodeid).metrics for case in cases):
            first, *others = baseline.names()
            raise UsageError(
                f"{required}: {source} has none of this session's {counted(len(cases), 'case')}: it"
                f" has {first}{f' and {len(others)} more' if others else ''}"
            )

    def _check_across(self, baseline: Baseline) -> None:
        """Raises UsageError for a fact to compare across that is a misspelt one of the baseline's.
        A fact that only this session will have is known once it has measured."""
        names = fact_names([*baseline.facts(), CASE_FACTS])
        for name in state.settings(self._config).compare_across:
            if names and name not in names and (near := nearest_facts(name, names)):
                raise UsageError(
                    f"--dnn-compare-across {name}: the baseline has no such fact: did you mean"
                    f" {' or '.join(near)}?"
                )

    def _foresee(self, cases: list[pytest.Item]) -> None:
        """Says what the session can detect, where few sessions are stored."""
        config, settings = self._config, state.settings(self._config)
        silent = state.is_xdist_worker(config) or not benchmark_file.is_timed(config)
        if self._baseline is None or not cases or silent:
            return
        foresight = foresee(
            self._baseline,
            {case.nodeid: self.layers(case) for case in cases},
            launches=settings.launches,
            false_alarms=settings.false_alarms,
            device=resources(config).machine.kind,
        )
        if foresight:
            state.announce(config, f"dnnbench: {foresight}")

    def layers(self, item: pytest.Item) -> list[Mapping[str, Limit]]:
        """The limits that the user set for a case; the first layer that limits a metric wins:
        command line, ini file, marks of the case."""
        return [*self._layers, case_marks.marked_limits(item)]

    def compared_with(self, name: str, record: Record) -> ComparedWith:
        """What a case that was just measured is compared with."""
        if self._baseline is None:
            return NoBaseline()
        across, now = state.settings(self._config).compare_across, facts_of(record)
        latest, anchor = self._baseline.of(name, now, across), self._anchor_of(name, record)
        if not isinstance(anchor, CaseBaseline):
            return latest
        if not isinstance(latest, CaseBaseline):
            return anchor
        return latest.anchored_at(anchor, f"{state.settings(self._config).anchor} ({anchor.file})")

    def lacks_anchor(self, name: str, record: Record) -> str | None:
        """Why a case that was just measured is not compared with the anchor; None where it is, and
        where there is no anchor."""
        anchor = self._anchor_of(name, record)
        if self._anchor is None or isinstance(anchor, CaseBaseline):
            return None
        why = anchor.reason if anchor else None
        return f"{self._anchor.name}: {why or 'no session of the case that may be compared'}"

    def _anchor_of(self, name: str, record: Record) -> ComparedWith | None:
        """The case in the anchor; None without one."""
        if self._anchor is None:
            return None
        across = state.settings(self._config).compare_across
        return self._anchor.of(name, facts_of(record), across)

    def lacking(self, measured: Collection[str]) -> list[str]:
        """Cases of the baseline that this session was to run and did not measure."""
        if self._baseline is None or not benchmark_file.is_timed(self._config):
            return []
        left_out = self.left_out()
        return [
            name for name in self._baseline.names() if name not in measured and name not in left_out
        ]

    def left_out(self) -> list[str]:
        """Cases of the baseline that the user left out on purpose: by an option of pytest that
        deselects, by naming other files or tests, or by --lf, which skips whole files unasked."""
        if self._baseline is None:
            return []
        only_failed = bool(self._config.getoption("lf", False))
        return [
            name
            for name in self._baseline.names()
            if only_failed or name in self.deselected or not is_chosen(name, self._config)
        ]

    def _refuse_overwriting(self, flag: str, file: str) -> None:
        target = benchmark_file.json_target(self._config)
        if target and Path(file).resolve() == Path(target).resolve():
            raise UsageError(
                f"--benchmark-json {target} would overwrite {flag} in place: save the session"
                " elsewhere, then run `dnnbench baseline update`"
            )


def _why_not(baseline: Baseline) -> str:
    """In brackets, why the sessions of a baseline that has none were passed over."""
    passed_over = baseline.passed_over[:3]
    return f" ({'; '.join(passed_over)})" if passed_over else ""
