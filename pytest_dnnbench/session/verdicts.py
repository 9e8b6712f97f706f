"""Gives each case its verdict inside its own test, and tells the saved file whether the session is
fit as a baseline.

    measured ──> judge ── suspect ──> fresh launches ──> judge again ──> record.verdict
                                                                            └──> Outcome of the test

Baselines, limits and statistics live in results/; what is said at the end in verdict_summary.py.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import msgspec
import pytest

from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.harmless import one_line
from pytest_dnnbench.metrics import THROUGHPUT, YARDSTICK
from pytest_dnnbench.results.baselines.case_baseline import ComparedWith
from pytest_dnnbench.results.baselines.comparability import elsewhere
from pytest_dnnbench.results.baselines.limits import Limit
from pytest_dnnbench.results.records.breakdown import breakdown_of
from pytest_dnnbench.results.records.launches import launches_of
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.schema import (
    SCHEMA,
    Acceptance,
    Note,
    Record,
    SessionEntry,
)
from pytest_dnnbench.results.records.side_by_side import TIMES
from pytest_dnnbench.results.records.speed_up import relate, speed_ups_of
from pytest_dnnbench.results.records.verdict import Confirmation, MetricVerdict
from pytest_dnnbench.results.statistics.false_alarms import alpha_per_test
from pytest_dnnbench.results.statistics.noise import Prior, learn, prior_of
from pytest_dnnbench.results.verdicts.baseline_command import acceptance
from pytest_dnnbench.results.verdicts.calibration import noise_summary
from pytest_dnnbench.results.verdicts.first_comparison import (
    at_first_comparison,
    calmer_priors,
    early_of_launches,
)
from pytest_dnnbench.results.verdicts.judge import (
    judge,
    judge_again,
    limits_of,
    thresholds,
    unmeasured,
)
from pytest_dnnbench.results.verdicts.number_of_tests import number_of_tests, stored_case
from pytest_dnnbench.results.verdicts.text import (
    failure_message,
    notes_of,
    slow_rank,
    unjudged_lines,
)
from pytest_dnnbench.results.verdicts.why import FEWEST, explain, unexplained
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.baseline import SessionBaseline
from pytest_dnnbench.session.case_marks import known_regression
from pytest_dnnbench.session.completeness import Completion
from pytest_dnnbench.session.junit import add_properties
from pytest_dnnbench.session.preflight import Preflight
from pytest_dnnbench.session.resources import resources
from pytest_dnnbench.session.settings import Settings
from pytest_dnnbench.session.verdict_summary import verdict_lines


class Again(Protocol):
    """Measures the case in a number of fresh launches."""

    def __call__(self, count: int, *, profiled: bool = False) -> Measurement:
        """Profiled ones run a few more steps after the timed ones, under torch's profiler."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the verdict means for the test: `failure` fails it, `expected` marks it as an expected
    failure."""

    failure: str | None = None
    expected: str | None = None


class Verdicts:
    """One per session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: list[str] = []
        self._interrupted = False
        self._tests: int | None = None
        self._priors: dict[str, Prior] | None = None

    @property
    def _settings(self) -> Settings:
        # Asked for anew: `--dnn-launches auto` replaces the settings after collection.
        return state.settings(self._config)

    # pytest's hooks

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a test that fails: it makes the session unfit as a baseline."""
        if report.failed:
            self._failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> Generator[None, object, object]:
        """Notes how the session ended, before pytest-benchmark saves it, and adds the last
        speed-ups; fails the session for cases that were required."""
        completion = state.part(self._config, Completion)
        self._interrupted = not completion.is_complete(session, exitstatus)
        relate(benchmark_file.records(self._config).values())
        required = self._settings.require_baseline and not state.is_xdist_worker(self._config)
        if required and self.lacking() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)  # absent under -p no:benchmark
    def pytest_benchmark_update_json(
        self, benchmarks: list[Any], output_json: dict[str, Any]
    ) -> None:
        """Writes into the file the records, and whether their session is fit as a baseline. First,
        so that other hooks see the file as it will be."""
        if any(map(benchmark_file.is_ours, benchmarks)):
            session = SessionEntry(
                schema=SCHEMA,
                failed=sorted(set(self._failed)),
                interrupted=self._interrupted,
                accepted=self._acceptance(),
                preflight=state.part(self._config, Preflight).entry,
            )
            benchmark_file.make_plain(output_json, session)

    def summary(self) -> list[tuple[str, str]]:
        """What was compared with what, and loudly what was not."""
        records = benchmark_file.records(self._config)
        baseline = state.part(self._config, SessionBaseline)
        lines = verdict_lines(records, baseline, self.lacking()) if records else []
        return [("", ""), *((line, "") for line in lines)] if lines else []

    def lacking(self) -> list[str]:
        """Cases of the baseline that this session was to run and did not measure."""
        measured = {*benchmark_file.records(self._config), *self._failed}
        return state.part(self._config, SessionBaseline).lacking(measured)

    # the verdict

    def lacks_baseline(self, item: pytest.Item) -> str | None:
        """Why a case would fail for want of a required baseline, however it measures: said before
        it is measured. None where it need not."""
        baseline = state.part(self._config, SessionBaseline).current
        required = self._settings.require_baseline and benchmark_file.is_timed(self._config)
        if not required or baseline is None or baseline.stored(item.nodeid).metrics:
            return None
        return f"--dnn-require-baseline: {self._nothing_to_compare_with(item)}; it was not measured"

    def judge(self, item: pytest.Item, record: Record, again: Again) -> Outcome:
        """Adds limits and verdict to a record. `again(n)` measures the case in n fresh launches."""
        session_baseline = state.part(self._config, SessionBaseline)
        layers = session_baseline.layers(item)
        baseline = at_first_comparison(
            session_baseline.compared_with(item.nodeid, record), self._first_priors(item.session)
        )
        limits = limits_of(record.metrics, baseline, layers)
        record.thresholds = thresholds(record.metrics, limits)
        if lacks := session_baseline.lacks_anchor(item.nodeid, record):
            _note(record, "NOT COMPARED WITH THE ANCHOR", lacks)
        if slow := slow_rank(record):
            _note(record, "slow rank", slow)
        if self._settings.calibrate:
            self._calibrate(item, record, limits)
        self._decide(item, record, baseline, limits, again)
        record.verdict = msgspec.structs.replace(
            record.verdict, elsewhere=elsewhere(baseline.recorded, record)
        )
        self._explain(record, baseline, again)
        unheld = unjudged_lines(record.verdict)
        if names := unmeasured(record.metrics, layers):
            _note(record, "limited but not measured", ", ".join(names))
            unheld.append(f"limited but not measured: {', '.join(names)}")
        add_properties(item, record)
        return self._outcome(item, record, unheld)

    def _decide(
        self,
        item: pytest.Item,
        record: Record,
        baseline: ComparedWith,
        limits: Mapping[str, Limit],
        again: Again,
    ) -> None:
        settings = self._settings
        # Across a difference the yardstick explains nothing: its change may come from that
        # difference.
        machine = set() if settings.compare_across else {YARDSTICK} & set(record.metrics)
        first = {name: record.measured(name) for name in {*limits, *machine}}
        alpha = alpha_per_test(settings.false_alarms, self._number_of_tests(item))
        judged = judge(first, baseline, limits, alpha)
        confirm = settings.launches if settings.confirm is None else settings.confirm
        if not judged.suspects or not confirm or settings.accept:
            record.verdict = judged.verdict
            return
        confirmation = _confirmation(record, again(confirm), judged.verdict.metrics)
        fresh = {
            name: launches_of(name, confirmation.per_launch[name], confirmation.disturbed)
            for name in first
            if name in confirmation.per_launch
        }
        verdict = judge_again(first, fresh, baseline, limits, alpha)
        record.verdict = msgspec.structs.replace(verdict, confirmation=confirmation)

    def _explain(self, record: Record, baseline: ComparedWith, again: Again) -> None:
        """Says why a case got slower, where the baseline has a profile. A case without a profile of
        its own is profiled in fresh launches."""
        regressed = {
            name for name, metric in record.verdict.metrics.items() if metric.status == "regressed"
        }
        if baseline.breakdown is None or self._settings.accept or not regressed & {*TIMES}:
            return
        if record.breakdown is None or len(record.breakdown.launches) < FEWEST:
            try:
                record.breakdown = breakdown_of(again(FEWEST, profiled=True).launches, FEWEST)
            except DnnbenchError as error:  # the verdict stands all the same
                record.why = unexplained(f"the profiled launches failed: {one_line(error)}")
                return
        record.why = (
            explain(baseline.breakdown, record.breakdown)
            if record.breakdown
            else unexplained("the framework completes no two steps on some rank")
        )

    def _first_priors(self, session: pytest.Session) -> dict[str, Prior]:
        """What the cases of this process say of how much sessions differ; learnt once, at the
        first verdict, so that the order of the cases changes nothing."""
        if self._priors is None:
            baseline = state.part(self._config, SessionBaseline).current
            runs, early = resources(self._config).runs, self._settings.rounds - 1
            launches = {
                case.nodeid: runs[case.nodeid].launches[:early]
                for case in state.cases_here(session)
                if case.nodeid in runs
            }
            self._priors = calmer_priors(
                (stored_case(baseline, name), early_of_launches(each))
                for name, each in launches.items()
            )
        return self._priors

    def _number_of_tests(self, item: pytest.Item) -> int:
        """The tests of all cases of the session, those of other xdist workers too; counted once, at
        the first case."""
        if self._tests is None:
            baseline = state.part(self._config, SessionBaseline)
            cases = {case.nodeid: baseline.layers(case) for case in state.cases(item.session)}
            device = resources(self._config).machine.kind
            self._tests = number_of_tests(cases, baseline.current, device)
        return self._tests

    def _outcome(self, item: pytest.Item, record: Record, unheld: list[str]) -> Outcome:
        status, expected = record.verdict.status, known_regression(item)
        if status == "regressed":
            message = failure_message(record)
            if self._settings.accept:
                _note(record, "accepted", self._settings.accept)
                return Outcome()
            if expected and expected.holds(date.today()):
                return Outcome(expected=f"{expected.reason}\n{message}")
            if expected:
                message += f"\n  expected until {expected.until} ({expected.reason}): that is over"
            return Outcome(failure=message)
        if expected and status in ("ok", "improved"):
            remedy = f"take the known_regression mark away ({expected.reason})"
            _note(record, "no longer a regression", remedy)
        compared = status not in ("no-baseline", "incomparable")
        if self._settings.require_baseline and (unheld or not compared):
            why = unheld or notes_of(record.verdict) or [self._nothing_to_compare_with(item)]
            return Outcome(failure=f"--dnn-require-baseline: {'; '.join(why)}")
        return Outcome()

    def _calibrate(self, item: pytest.Item, record: Record, limits: Mapping[str, Limit]) -> None:
        """Learns the noise of the case from its launches and says what they would detect."""
        settings = self._settings
        for metric, limit in limits.items():
            measured = record.measured(metric)
            if doubt := measured.doubt:
                _note(record, "not calibrated", f"{metric}: {doubt}: calibrate again")
                continue
            launches = measured.undisturbed
            if not all(value > 0 for value in launches):
                continue
            noise = record.noise[metric] = learn([launches], prior_of(metric))
            text = noise_summary(
                metric,
                launches[: settings.launches],
                [launches],
                noise,
                limit,
                false_alarms=settings.false_alarms,
                tests=self._number_of_tests(item),
            )
            _note(record, "calibrated", text)

    def _acceptance(self) -> Acceptance | None:
        return acceptance(self._settings.accept) if self._settings.accept else None

    def _nothing_to_compare_with(self, item: pytest.Item) -> str:
        baseline = state.part(self._config, SessionBaseline).current
        if baseline is None:
            return "there is no --dnn-baseline"
        return f"{baseline.name or 'the storage'} lacks {item.nodeid}"


def _note(record: Record, kind: str, text: str) -> None:
    """Keeps on the record what the summary is to say: an xdist worker has no summary of its own."""
    record.notes.append(Note(kind=kind, text=text))


def _confirmation(
    record: Record, measurement: Measurement, first: dict[str, MetricVerdict]
) -> Confirmation:
    """The fresh launches of a case, with the verdicts of the first look."""
    per_launch = {name: figures.per_launch for name, figures in measurement.values().items()}
    return Confirmation(
        launches=len(measurement.launches),
        per_launch=per_launch | speed_ups_of(record, per_launch[THROUGHPUT]),
        disturbed=[launch.conditions.disturbed for launch in measurement.launches],
        first=first,
    )
