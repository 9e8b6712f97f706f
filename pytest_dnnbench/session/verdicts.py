"""Gives each case its verdict inside its own test, and tells the saved file whether the session is
fit as a baseline.

    measured ──> judge ── suspect ──> fresh launches ──> confirm ──> record["verdict"]
                                                                         └──> Outcome of the test

Baselines, limits and statistics live in results/; what is said at the end in verdict_summary.py.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.baseline import SessionBaseline
from pytest_dnnbench.session.completion import Completion
from pytest_dnnbench.session.marks import known_regression
from pytest_dnnbench.session.settings import Settings

if TYPE_CHECKING:
    from pytest_dnnbench.results.baselines.limits import Limit
    from pytest_dnnbench.results.verdicts.judge import Found

Record = dict[str, Any]
Again = Callable[[int], tuple[dict[str, list[float]], list[str | None]]]
"""Makes so many fresh launches: per metric the value of each, and why each was disturbed, or
None."""


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
        from pytest_dnnbench.results.records.record import relate

        completion = state.part(self._config, Completion)
        self._interrupted = not completion.is_complete(session, exitstatus)
        relate(list(benchmark_file.records(self._config).values()))
        required = self._settings.require_baseline and not state.is_xdist_worker(self._config)
        if required and self.lacking() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    @pytest.hookimpl(optionalhook=True)  # absent under -p no:benchmark
    def pytest_benchmark_update_json(
        self, benchmarks: list[Any], output_json: dict[str, Any]
    ) -> None:
        """Writes into the file whether its session is fit as a baseline."""
        from pytest_dnnbench.results.records.schema import SCHEMA

        if any(map(benchmark_file.is_ours, benchmarks)):
            output_json[benchmark_file.KEY] = {
                "schema": SCHEMA,
                "failed": sorted(set(self._failed)),
                "interrupted": self._interrupted,
                "accepted": self._acceptance(),
            }

    def summary(self) -> list[tuple[str, str]]:
        """What was compared with what, and loudly what was not."""
        from pytest_dnnbench.session.verdict_summary import verdict_lines

        records = benchmark_file.records(self._config)
        baseline = state.part(self._config, SessionBaseline)
        lines = verdict_lines(records, baseline, self.lacking()) if records else []
        return [("", ""), *((line, "") for line in lines)] if lines else []

    def lacking(self) -> list[str]:
        """Cases of the baseline that this session was to run and did not measure."""
        measured = {*benchmark_file.records(self._config), *self._failed}
        return state.part(self._config, SessionBaseline).lacking(measured)

    # the verdict

    def judge(self, item: pytest.Item, record: Record, again: Again) -> Outcome:
        """Adds limits and verdict to a record. `again(n)` measures the case in n fresh launches."""
        from pytest_dnnbench.results.baselines.comparability import facts_of
        from pytest_dnnbench.results.verdicts.judge import (
            limits_of,
            thresholds,
            uncompared,
            unmeasured,
        )
        from pytest_dnnbench.results.verdicts.text import slow_rank

        session_baseline = state.part(self._config, SessionBaseline)
        layers, baseline = session_baseline.layers(item), None
        if session_baseline.current:
            baseline = session_baseline.current.of(
                item.nodeid, facts_of(record), self._settings.compare_across
            )
        limits = limits_of(record["metrics"], baseline, layers)
        record["thresholds"] = thresholds(record["metrics"], limits)
        if slow := slow_rank(record):
            _note(record, "slow rank", slow)
        if self._settings.calibrate:
            self._calibrate(item, record, limits)
        self._decide(item, record, baseline, limits, again)
        unheld = {
            "limited but not measured": unmeasured(record["metrics"], layers),
            "not compared, for every stored launch was disturbed": uncompared(limits, baseline),
        }
        for what, names in unheld.items():
            if names:
                _note(record, what, ", ".join(names))
        reasons = [f"{what}: {', '.join(names)}" for what, names in unheld.items() if names]
        return self._outcome(item, record, reasons)

    def _decide(
        self,
        item: pytest.Item,
        record: Record,
        baseline: Found,
        limits: Mapping[str, Limit],
        again: Again,
    ) -> None:
        from pytest_dnnbench.results.records.launches import launches_of
        from pytest_dnnbench.results.records.record import launches_in
        from pytest_dnnbench.results.statistics.design import alpha_per_test
        from pytest_dnnbench.results.verdicts.judge import judge

        metrics, settings = record["metrics"], self._settings
        # Across a difference the yardstick tells nothing: it may be that difference's own.
        machine = [] if settings.compare_across else {YARDSTICK} & set(metrics) - set(limits)
        looked_at = [*limits, *machine]
        first = {name: launches_in(record, name) for name in looked_at}
        better = {name: metrics[name]["better"] for name in limits}
        alpha = alpha_per_test(settings.false_alarms, _tests(item, limits))
        judged = judge(first, better, baseline, limits, alpha)
        confirm = settings.launches if settings.confirm is None else settings.confirm
        if judged.suspects and confirm and not settings.accept:
            first_look = judged.verdict["metrics"]
            values, reasons = again(confirm)
            values = _with_ratios(values, record)
            fresh = {
                name: launches_of(name, values[name], reasons)
                for name in looked_at
                if name in values
            }
            judged = judge(first, better, baseline, limits, alpha, fresh)
            judged.verdict["confirmation"] = {
                "launches": confirm,
                "per_launch": values,
                "disturbed": reasons,
                "first": first_look,
            }
        record["verdict"] = judged.verdict

    def _outcome(self, item: pytest.Item, record: Record, unheld: list[str]) -> Outcome:
        from pytest_dnnbench.results.verdicts.text import failure_message, notes_of

        verdict, expected = record["verdict"], known_regression(item)
        status = verdict["status"]
        if status == "regressed":
            message = failure_message(record, verdict)
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
            why = notes_of(verdict) or unheld or [self._nothing_to_compare_with(item)]
            return Outcome(failure=f"--dnn-require-baseline: {'; '.join(why)}")
        return Outcome()

    def _calibrate(self, item: pytest.Item, record: Record, limits: Mapping[str, Limit]) -> None:
        """Learns the noise of the case from its launches and says what they would detect."""
        from pytest_dnnbench.results.records.record import launches_in
        from pytest_dnnbench.results.statistics.noise import learn, prior_of
        from pytest_dnnbench.results.verdicts.calibration import summary

        record["noise"] = {}
        tests = _tests(item, limits)
        for metric, limit in limits.items():
            launches = launches_in(record, metric).believed
            if not all(value > 0 for value in launches):
                continue
            noise = learn([launches], prior_of(metric))
            record["noise"][metric] = asdict(noise)
            session = launches[: self._settings.launches]
            text = summary(metric, session, [launches], noise, limit, tests=tests)
            _note(record, "calibrated", text)

    def _acceptance(self) -> dict[str, str] | None:
        if not self._settings.accept:
            return None
        from pytest_dnnbench.results.verdicts.baseline_command import acceptance

        accepted = acceptance(self._settings.accept)
        return {"who": accepted.who, "when": accepted.when, "why": accepted.why}

    def _nothing_to_compare_with(self, item: pytest.Item) -> str:
        baseline = state.part(self._config, SessionBaseline).current
        if baseline is None:
            return "there is no --dnn-baseline"
        return f"{baseline.name or 'the storage'} lacks {item.nodeid}"


def _note(record: Record, kind: str, text: str) -> None:
    """Keeps on the record what the summary is to say: an xdist worker has no summary of its own."""
    record.setdefault("notes", []).append([kind, text])


def _tests(item: pytest.Item, limits: Mapping[str, Limit]) -> int:
    """How many tests share the session's false-alarm rate: those of all cases, of other xdist
    workers too."""
    return len(state.cases(item.session)) * len(limits)


def _with_ratios(fresh: dict[str, list[float]], record: Record) -> dict[str, list[float]]:
    """Adds speed-up and efficiency, against what `single` did earlier in this session."""
    from pytest_dnnbench.results.records.launches import launches_of

    metrics = record["metrics"]
    if "speedup" not in metrics:
        return fresh
    rates, ratios = metrics["throughput"]["per_launch"], metrics["speedup"]["per_launch"]
    singles = launches_of(
        "speedup",
        [rate / ratio for rate, ratio in zip(rates, ratios, strict=False)],
        metrics["speedup"].get("disturbed", ()),
    )
    if not singles.enough:  # what these launches would be divided by is not trusted
        return fresh
    single = statistics.median(singles.undisturbed)
    speedup = [rate / single for rate in fresh["throughput"]]
    efficiency = [ratio / record["case"]["gpus"] for ratio in speedup]
    return {**fresh, "speedup": speedup, "scaling_efficiency": efficiency}
