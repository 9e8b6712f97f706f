"""Gives each case its verdict inside its own test, and tells pytest-benchmark's file whether the
session is fit.

    measured ──> judge ── suspect ──> fresh launches ──> confirm ──> record["verdict"] ──> failure, if it regressed

A pytest plugin of its own, registered by plugin.py. Baselines, limits and statistics live in
results/.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.session.settings import Settings
from pytest_dnnbench.session.xdist import is_worker

if TYPE_CHECKING:
    from pytest_dnnbench.results.baselines.baseline import Baseline
    from pytest_dnnbench.results.baselines.limits import Limit
    from pytest_dnnbench.results.verdicts.judge import Found

NAME = "dnnbench-gate"
Record = dict[str, Any]
Again = Callable[[int], tuple[dict[str, list[float]], list[str | None]]]
"""So many fresh launches: per metric the value of each, and why each was disturbed, or None."""

_MARKERS = (
    'limits(METRIC="LIMIT", ...): how much worse than its baseline a metric of this case may be ("-5%"), or which'
    ' figure it must reach (">=3000")',
    "known_regression(reason, until=None): a regression of this case is expected, until a date (2027-01-31) at most",
)
# Lines of one kind that the summary shows.
_MOST_LINES = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the verdict means for the test: `failure` fails it, `expected` marks it as an expected
    failure."""

    failure: str | None = None
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class KnownRegression:
    """A regression that is expected, and until when."""

    reason: str
    until: date | None

    def holds(self, today: date) -> bool:
        """Whether it still is."""
        return self.until is None or today <= self.until


class Gate:
    """One per session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._baseline: Baseline | None = None
        self._failed: list[str] = []
        self._deselected: set[str] = set()
        self._interrupted = False
        self._layers: list[Mapping[str, Limit]] = []
        for marker in _MARKERS:
            config.addinivalue_line("markers", marker)

    # pytest's hooks

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Checks every limit and mark before anything starts."""
        try:
            self._layers = [
                _limit_list(self._config.getoption("dnn_limits"), "--dnn-limits"),
                _limit_list(self._config.getini("dnn_limits"), "dnn_limits in the ini file"),
            ]
            for item in items:
                marker_limits(item)
                known_regression(item)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Cases that the user left out on purpose."""
        self._deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Reads the baseline before anything is measured."""
        if self._settings.baseline and not session.config.option.collectonly:
            try:
                self.baseline()
            except UsageError as error:
                raise pytest.UsageError(str(error)) from None
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Any test that fails makes the session unfit as a baseline."""
        if report.failed:
            self._failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> Generator[None, object, object]:
        """Notes how the session ended before pytest-benchmark saves it; fails it for cases that
        were required."""
        ended = (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        )
        self._interrupted = exitstatus not in ended
        if is_worker(self._config):  # the controller knows what all workers measured
            self._config.workeroutput[NAME] = sorted(self._deselected)  # type: ignore[attr-defined] # xdist adds it
        elif (
            self._settings.require_baseline and self._lacking() and exitstatus == pytest.ExitCode.OK
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hears from a worker of pytest-xdist what the user left out."""
        self._deselected |= set(getattr(node, "workeroutput", {}).get(NAME, ()))

    def pytest_benchmark_update_json(
        self, benchmarks: list[Any], output_json: dict[str, Any]
    ) -> None:
        """Writes into the file whether its session is fit as a baseline."""
        if any("dnnbench" in benchmark.extra_info for benchmark in benchmarks):
            output_json["dnnbench"] = {
                "schema": 1,
                "failed": sorted(set(self._failed)),
                "interrupted": self._interrupted,
                "accepted": self._acceptance(),
            }

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Says what was compared with what, and loudly what was not."""
        records = self._records()
        lines = self._summary(records) if records else []
        if lines:
            terminalreporter.write_line("")
        for line in lines:
            terminalreporter.write_line(line)

    # the verdict

    def judge(self, item: pytest.Item, record: Record, again: Again) -> Outcome:
        """Adds limits and verdict to a record. `again(n)` measures the case in n fresh launches,
        per metric."""
        from pytest_dnnbench.results.baselines.comparability import facts_of
        from pytest_dnnbench.results.verdicts.judge import (
            limits_of,
            thresholds,
            uncompared,
            unmeasured,
        )
        from pytest_dnnbench.results.verdicts.text import slow_rank

        layers = self.layers(item)
        found = None
        if self._baseline:
            found = self._baseline.of(item.nodeid, facts_of(record), self._settings.compare_across)
        limits = limits_of(record["metrics"], found, layers)
        record["thresholds"] = thresholds(record["metrics"], limits)
        if slow := slow_rank(record):
            _note(record, "slow rank", slow)
        if self._settings.calibrate:
            self._calibrate(item, record, limits)
        self._judge(item, record, found, limits, again)
        unheld = {
            "limited but not measured": unmeasured(record["metrics"], layers),
            "not compared, for every stored launch was disturbed": uncompared(limits, found),
        }
        for what, names in unheld.items():
            if names:
                _note(record, what, ", ".join(names))
        return self._outcome(
            item, record, [f"{what}: {', '.join(names)}" for what, names in unheld.items() if names]
        )

    def _judge(
        self,
        item: pytest.Item,
        record: Record,
        found: Found,
        limits: Mapping[str, Limit],
        again: Again,
    ) -> None:
        from pytest_dnnbench.results.records.launches import launches_of
        from pytest_dnnbench.results.records.record import launches_in
        from pytest_dnnbench.results.statistics.design import alpha_per_test
        from pytest_dnnbench.results.verdicts.judge import judge

        metrics = record["metrics"]
        looked_at = [
            *limits,
            *([] if self._settings.compare_across else {YARDSTICK} & set(metrics) - set(limits)),
        ]
        first = {name: launches_in(record, name) for name in looked_at}
        better = {name: metrics[name]["better"] for name in limits}
        alpha = alpha_per_test(self._settings.false_alarms, _tests(item, limits))
        judged = judge(first, better, found, limits, alpha)
        confirm = (
            self._settings.launches if self._settings.confirm is None else self._settings.confirm
        )
        if judged.suspects and confirm and not self._settings.accept:
            looked = judged.verdict["metrics"]
            values, reasons = again(confirm)
            values = _with_ratios(values, record)
            fresh = {
                name: launches_of(name, values[name], reasons)
                for name in looked_at
                if name in values
            }
            judged = judge(first, better, found, limits, alpha, fresh)
            confirmation = {
                "launches": confirm,
                "per_launch": values,
                "disturbed": reasons,
                "first": looked,
            }
            judged.verdict["confirmation"] = confirmation
        record["verdict"] = judged.verdict

    def _outcome(self, item: pytest.Item, record: Record, unheld: list[str]) -> Outcome:
        from pytest_dnnbench.results.verdicts.text import failure_message, notes_of

        verdict, known = record["verdict"], known_regression(item)
        status = verdict["status"]
        if status == "regressed":
            message = failure_message(record, verdict)
            if self._settings.accept:
                _note(record, "accepted", self._settings.accept)
                return Outcome()
            if known and known.holds(date.today()):
                return Outcome(expected=f"{known.reason}\n{message}")
            if known:
                message += f"\n  expected until {known.until} ({known.reason}): that is over"
            return Outcome(failure=message)
        if known and status in ("ok", "improved"):
            _note(
                record,
                "no longer a regression",
                f"take the known_regression mark away ({known.reason})",
            )
        if self._settings.require_baseline and (
            status in ("no-baseline", "incomparable") or unheld
        ):
            why = notes_of(verdict) or unheld or [self._none(item)]
            return Outcome(failure=f"--dnn-require-baseline: {'; '.join(why)}")
        return Outcome()

    def _calibrate(self, item: pytest.Item, record: Record, limits: Mapping[str, Limit]) -> None:
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
            _note(
                record,
                "calibrated",
                summary(metric, session, [launches], noise, limit, tests=tests),
            )

    # what it is compared with

    @property
    def _settings(self) -> Settings:
        from pytest_dnnbench.plugin import SETTINGS

        return self._config.stash[SETTINGS]

    def baseline(self) -> Baseline:
        """What --dnn-baseline names, read once. Raises UsageError where it cannot be one."""
        if self._baseline is None:
            from pytest_dnnbench.results.baselines.baseline_source import load_baseline

            wanted = self._settings.baseline or ""
            found = load_baseline(wanted, self._storage())
            self._refuse_overwriting(wanted)
            if self._settings.effect is not None and not found.names():
                why = f" ({'; '.join(found.passed_over[:3])})" if found.passed_over else ""
                raise UsageError(
                    f"--dnn-launches auto: --dnn-baseline {wanted} holds no session that is fit{why}: save some first"
                    " with --benchmark-save and a number of launches, as in --dnn-launches 3"
                )
            self._baseline = found
        return self._baseline

    def layers(self, item: pytest.Item) -> list[Mapping[str, Limit]]:
        """The limits that the user set for a case, nearest first."""
        return [*self._layers, marker_limits(item)]

    def _storage(self) -> Path:
        storage = self._config._benchmarksession.storage  # type: ignore[attr-defined] # pytest-benchmark sets it
        path = getattr(storage, "path", None)
        if path is None:
            raise UsageError(
                f"--dnn-baseline reads files, and --benchmark-storage is {storage}: name a path"
            )
        return Path(path, storage.default_machine_id or "")

    def _refuse_overwriting(self, wanted: str) -> None:
        target = getattr(self._config.option, "benchmark_json", None)
        if target and Path(wanted).resolve() == Path(target).resolve():
            raise UsageError(
                f"--benchmark-json {target} would overwrite --dnn-baseline in place: save the session elsewhere,"
                f" then run `dnnbench baseline update`"
            )

    def _records(self) -> dict[str, Record]:
        """The records of this session, by the case's name."""
        session = getattr(self._config, "_benchmarksession", None)
        benchmarks = session.benchmarks if session else []
        return {
            one.fullname: one.extra_info["dnnbench"]
            for one in benchmarks
            if "dnnbench" in one.extra_info
        }

    def _lacking(self) -> list[str]:
        """Cases of the baseline that this session was to run and did not measure."""
        from pytest_dnnbench.plugin import timing

        if self._baseline is None or not timing(self._config):
            return []
        seen = {*self._records(), *self._failed, *self._deselected}
        return [name for name in self._baseline.names() if name not in seen]

    def _acceptance(self) -> dict[str, str] | None:
        if not self._settings.accept:
            return None
        from pytest_dnnbench.results.baselines.command import acceptance

        accepted = acceptance(self._settings.accept)
        return {"who": accepted.who, "when": accepted.when, "why": accepted.why}

    # what is said at the end

    def _none(self, item: pytest.Item) -> str:
        if self._baseline is None:
            return "there is no --dnn-baseline"
        return f"{self._baseline.name or 'the storage'} lacks {item.nodeid}"

    def _summary(self, records: dict[str, Record]) -> list[str]:
        from pytest_dnnbench.results.verdicts.text import notes_of

        statuses = [record["verdict"]["status"] for record in records.values()]
        counts = ", ".join(
            f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))
        )
        lines = (
            [f"verdicts against {self._baseline.name or 'nothing'}: {counts}"]
            if self._baseline
            else []
        )
        kinds: dict[str, list[str]] = {}
        if self._baseline is not None:
            if not self._baseline.names():
                lines.append(
                    "NO BASELINE: no stored session is fit; save one with --benchmark-autosave"
                )
            else:
                none = [
                    name
                    for name, one in records.items()
                    if one["verdict"]["status"] == "no-baseline"
                ]
                kinds["THE BASELINE LACKS"] = none
                kinds["THIS RUN LACKS"] = self._lacking()
            left_out = [name for name in self._baseline.names() if name in self._deselected]
            if left_out:
                lines.append(f"deselected: {len(left_out)} cases of the baseline")
            kinds["passed over"] = self._baseline.passed_over
        for name, record in records.items():
            kind = {"incomparable": "NOT COMPARABLE"}.get(
                record["verdict"]["status"], record["verdict"]["status"]
            )
            kinds.setdefault(kind, []).extend(
                f"{name}: {note}" for note in notes_of(record["verdict"])
            )
            for kind, text in record.get("notes", ()):
                kinds.setdefault(kind, []).append(f"{name}: {text}")
        for kind, found in kinds.items():
            most = None if kind == "calibrated" else _MOST_LINES
            lines += [f"{kind}: {line}" for line in found[:most]]
            if most and len(found) > most:
                lines.append(f"{kind}: {len(found) - most} more")
        return lines


def marker_limits(item: pytest.Item) -> dict[str, Limit]:
    """The limits that the case's marks set, the closest mark first. Raises UsageError naming the
    case."""
    from pytest_dnnbench.results.baselines.limits import parse_limits

    found: dict[str, Limit] = {}
    for mark in item.iter_markers("limits"):
        if mark.args:
            raise UsageError(
                f'{item.nodeid}: write limits(METRIC="LIMIT"), not limits({mark.args[0]!r})'
            )
        found = {**parse_limits(mark.kwargs, f"limits mark of {item.nodeid}"), **found}
    return found


def known_regression(item: pytest.Item) -> KnownRegression | None:
    """The case's known regression. Raises UsageError for a mark without a reason or with no
    date."""
    mark = item.get_closest_marker("known_regression")
    if mark is None:
        return None
    reason, until = (
        mark.kwargs.get("reason", mark.args[0] if mark.args else None),
        mark.kwargs.get("until"),
    )
    place = f"known_regression mark of {item.nodeid}"
    if (
        not isinstance(reason, str)
        or not reason
        or set(mark.kwargs) - {"reason", "until"}
        or len(mark.args) > 1
    ):
        raise UsageError(f'{place}: write known_regression(reason="why", until="2027-01-31")')
    if until is None or isinstance(until, date):
        return KnownRegression(reason, until)
    try:
        return KnownRegression(reason, date.fromisoformat(until))
    except (TypeError, ValueError):
        raise UsageError(
            f"{place}: until={until!r} is not a date: write it as 2027-01-31"
        ) from None


def _note(record: Record, kind: str, text: str) -> None:
    """Keeps on the record what the summary is to say: a worker of pytest-xdist has no summary of
    its own."""
    record.setdefault("notes", []).append([kind, text])


def _tests(item: pytest.Item, limits: Mapping[str, Limit]) -> int:
    """How many tests the false-alarm rate of the session is shared by: every case's, those of other
    workers too."""
    return sum("dnnbench" in getattr(one, "fixturenames", ()) for one in item.session.items) * len(
        limits
    )


def _limit_list(text: str | None, source: str) -> dict[str, Limit]:
    from pytest_dnnbench.results.baselines.limits import parse_limit_list

    return parse_limit_list([part for part in (text or "").split(",") if part.strip()], source)


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
    if not singles.enough:  # what these launches would be divided by is not believed
        return fresh
    single = statistics.median(singles.undisturbed)
    speedup = [rate / single for rate in fresh["throughput"]]
    efficiency = [one / record["case"]["gpus"] for one in speedup]
    return {**fresh, "speedup": speedup, "scaling_efficiency": efficiency}
