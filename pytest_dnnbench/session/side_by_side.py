"""Two environments side by side: each case is launched in both, in pairs, until the question of
which is faster is settled.

    --dnn-against ──> other_side.py ──> Side ──> a fork server of its own
    round n:  case 1   A B     case 2   B A     case 3   A B  ...
    round n+1:         B A              A B              B A       so that every case has A B B A
    after each planned look: verdicts/side_by_side.py says which cases are settled

Side A is the case as without this: its launches are the record, its baselines count. A failure on
side B fails the case's test at the end, and costs nothing of A's. Not here: rounds (rounds.py), and
what is said of the comparison (results/verdicts/side_by_side_text.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from pytest_dnnbench.errors import DnnbenchError, LaunchError, UsageError
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.resources import Resources, resources
from pytest_dnnbench.session.settings import DEFAULT_LAUNCHES, Settings

if TYPE_CHECKING:
    from pytest_dnnbench.catalog import FrameworkSpec
    from pytest_dnnbench.controller.case_run import CaseRun, Launcher
    from pytest_dnnbench.controller.forkserver import ForkServer
    from pytest_dnnbench.controller.placement import Placements
    from pytest_dnnbench.controller.ranks import Ranks
    from pytest_dnnbench.results.records.schema import Record
    from pytest_dnnbench.results.records.side_by_side import OtherSide, SideEntry
    from pytest_dnnbench.results.verdicts.side_by_side import Questions


def side_by_side(config: pytest.Config) -> SideBySide | None:
    """The session's comparison of two environments; None where it has only one."""
    sides = state.part_if_any(config, SideBySide)
    return sides if sides and sides.other is not None else None


@dataclass(frozen=True, slots=True)
class OtherEnvironment:
    """Side B of a session: its fork server and placements, what records say of it, the questions
    that are asked, and the number of each case, by node id."""

    server: ForkServer
    placements: Placements
    entry: SideEntry
    questions: Questions
    numbers: dict[str, int]


@dataclass
class Pair:
    """One case on both sides: `a` is the case's own run. `number` is its place among the cases,
    `failure` why side B could not be measured."""

    a: CaseRun
    b: CaseRun
    number: int
    failure: str | None = None

    @property
    def complete(self) -> int:
        """The rounds in which both sides were launched."""
        return min(len(self.a.launches), len(self.b.launches))

    def b_first(self, round_number: int) -> bool:
        """Whether B is launched before A in a round, counted from 1."""
        return (round_number + self.number) % 2 == 0


class SideBySide:
    """One per session. `other` is side B, None in a session without one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.other: OtherEnvironment | None = None
        self._pairs: dict[str, Pair] = {}

    @property
    def _b(self) -> OtherEnvironment:
        assert self.other is not None, "asked only in a session with two environments"
        return self.other

    # pytest's hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Checks the options, before pytest-xdist starts its workers."""
        settings = state.settings(self._config)
        distributed = self._config.getoption("dist", "no") != "no"
        try:
            _check(settings, distributed=distributed)
        except UsageError as error:
            raise state.refused(error, self._config) from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Makes side B and starts its server, if there are cases to measure."""
        settings, cases = state.settings(self._config), state.cases_here(session)
        if not settings.has_other_side or not cases or self._config.option.collectonly:
            return
        try:
            self._start(settings, cases)
        except UsageError as error:
            raise state.refused(error, self._config) from None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Waits for side B's server before anything is measured: where torch does not import, no
        case can be compared."""
        if self.other is not None:
            try:
                self.other.server.wait_ready()
            except LaunchError as error:
                name = f"--dnn-against: side B ({self.other.entry.name})"
                raise state.refused(UsageError(f"{name}: {error}"), self._config) from None
        return (yield)

    def pytest_unconfigure(self) -> None:
        """Ends side B's server, and with it any rank."""
        if self.other is not None:
            self.other.server.close()

    def summary(self) -> list[tuple[str, str]]:
        """The comparison in words."""
        from pytest_dnnbench.results.verdicts.side_by_side_text import summary_lines

        lines = summary_lines(benchmark_file.records(self._config))
        return [("", ""), *lines] if lines else []

    # measuring

    def launch(
        self, item: pytest.Item, run: CaseRun, ranks: Ranks, spec: FrameworkSpec, number: int
    ) -> None:
        """Launches a case once on each side, in a round counted from 1; what a continued session
        has of it is not launched again. `spec` is the case's framework. Raises what A's launch
        raises."""
        pair = self._pair(item, run, ranks, spec)
        for side in ("B", "A") if pair.b_first(number) else ("A", "B"):
            if side == "A":
                self._launch_a(item, pair, number)
            elif pair.failure is None and len(pair.b.launches) < number:
                self._launch_b(item, pair, number)

    def _launch_a(self, item: pytest.Item, pair: Pair, number: int) -> None:
        if len(pair.a.launches) >= number:
            return
        pair.a.launch()
        if keeper := resources(self._config).keeper:
            keeper.keep(item.nodeid, pair.a, number=number)

    def _launch_b(self, item: pytest.Item, pair: Pair, number: int) -> None:
        # The same plan on both sides: a case whose stages are cut elsewhere is another case.
        pair.a.prepare()
        pair.b.request = pair.a.request
        try:
            pair.b.launch()
        except DnnbenchError as error:
            pair.failure = f"{type(error).__name__}: {error}"
            return
        if keeper := resources(self._config).keeper:
            keeper.keep(item.nodeid, pair.b, side="B", number=number)

    def _pair(self, item: pytest.Item, run: CaseRun, ranks: Ranks, spec: FrameworkSpec) -> Pair:
        """Both runs of a case, kept from round to round; B's with ranks like those given."""
        shared = resources(self._config)
        launcher = shared.launcher(ranks.on(self._b.server, self._b.placements), spec)
        if pair := self._pairs.get(item.nodeid):
            pair.b.launcher = launcher
            return pair
        other = other_run(run, launcher, self._b.server.side.versions)
        pair = self._pairs[item.nodeid] = Pair(run, other, self._b.numbers[item.nodeid])
        if shared.keeper:
            shared.keeper.restore_pairs(item.nodeid, run, other)
        return pair

    # the question

    def look(self, rounds: int, item: pytest.Item | None = None) -> None:
        """Looks at all pairs after a round, if a look is planned then. With an item the others have
        been looked at: only its question is decided, beside their pairs."""
        from pytest_dnnbench.results.verdicts.side_by_side import ratios_of

        if (planned := self._b.questions.planned(rounds)) is None:
            return
        self._b.questions.look(
            planned,
            {
                name: ratios_of(pair.a.measurement().values(), pair.b.measurement().values())
                for name, pair in self._pairs.items()
                if pair.complete and pair.failure is None
            },
            item.nodeid if item else None,
        )

    def complete(self, item: pytest.Item) -> int:
        """The rounds in which a case was launched on both sides."""
        pair = self._pairs.get(item.nodeid)
        return pair.complete if pair else 0

    def is_settled(self, item: pytest.Item) -> bool:
        """Whether a case needs no more launches. Of one whose side B failed, A has as many as
        without a side B."""
        pair = self._pairs.get(item.nodeid)
        if pair is None:
            return False
        if pair.failure is not None:
            return len(pair.a.launches) >= DEFAULT_LAUNCHES
        return self._b.questions.is_settled(item.nodeid)

    def entry(self, item: pytest.Item) -> OtherSide:
        """What the case's record holds of side B."""
        from pytest_dnnbench.results.verdicts.side_by_side import other_side_of

        pair, questions = self._pairs[item.nodeid], self._b.questions
        first = [pair.b_first(number) for number in range(1, len(pair.b.launches) + 1)]
        measured = pair.b.measurement() if pair.b.launches else None
        return other_side_of(
            self._b.entry,
            measured,
            pair.a.measurement(),
            questions,
            item.nodeid,
            first,
            pair.failure,
        )

    def explain(self, item: pytest.Item, record: Record) -> None:
        """Says on the record why one side is slower, where one is; profiles both for it."""
        from pytest_dnnbench.session.side_profiles import explain_pair, note_troubles

        pair = self._pairs[item.nodeid]
        note_troubles(record, pair.b.launches)
        explain_pair(record, pair.a, pair.b)

    def failure(self, record: Record) -> str | None:
        """Why the comparison fails the case's test; None where it does not."""
        from pytest_dnnbench.results.verdicts.side_by_side_text import side_failure_message

        return side_failure_message(record)

    def _start(self, settings: Settings, cases: list[pytest.Item]) -> None:
        from pytest_dnnbench.controller.forkserver import ForkServer
        from pytest_dnnbench.results.verdicts.side_by_side import (
            Questions,
            against_limits,
            compared_metrics,
        )
        from pytest_dnnbench.session.other_side import asked_side, make_side

        config, shared = self._config, resources(self._config)
        side, entry = make_side(
            asked_side(settings),
            lambda line: state.announce(config, line),
            shared.server.side.front,
        )
        server = ForkServer(shared.server.preload, side)
        limits = against_limits(settings.against_limits, "--dnn-against-limits")
        questions = Questions(
            len(cases),
            compared_metrics(shared.machine.kind, limits),
            settings.rounds,
            settings.false_alarms,
        )
        numbers = {case.nodeid: number for number, case in enumerate(cases)}
        self.other = OtherEnvironment(
            server, placements_of(shared, server), entry, questions, numbers
        )
        with suppress(LaunchError):  # its first launch tries again
            server.start()
        versions = side.versions or {}
        names = ("python", "torch", "torchvision", "numpy", "pytest-dnnbench")
        shared.must_stay["side B"] = {
            "python": side.python,
            **{f"{name} version": versions.get(name) for name in names},
        }


def other_run(run: CaseRun, launcher: Launcher, versions: Mapping[str, str] | None) -> CaseRun:
    """Side B's run of a case that has not been launched on side A; `versions` as in Side."""
    return replace(
        run,
        launcher=launcher,
        software=versions,
        # The yardstick is the machine's, and follows each launch of A.
        with_yardstick=False,
        # Launches of both sides have the same numbers.
        traces=run.traces and f"{run.traces}-side-B",
        correctness=None,
        launches=[],
    )


def placements_of(shared: Resources, server: ForkServer) -> Placements:
    """The session's placements, for launches of another server: on the same devices, with the
    same leases."""
    from pytest_dnnbench.controller.placement import Placements

    ours = shared.placements
    assert isinstance(ours, Placements), "a session on nodes compares no environments"
    return Placements(
        ours.machine,
        ours.leases,
        ours.counts,
        timed=ours.timed,
        side_by_side=ours.side_by_side,
        server_pid=lambda: server.pid,
        own_threads=server.side.threads,
    )


def _check(settings: Settings, *, distributed: bool) -> None:
    """Raises UsageError for options that cannot be together."""
    from pytest_dnnbench.results.statistics.paired import FIRST_LOOK
    from pytest_dnnbench.results.verdicts.side_by_side import against_limits
    from pytest_dnnbench.session.other_side import asked_side

    against_limits(settings.against_limits, "--dnn-against-limits")
    if not settings.has_other_side:
        return
    asked_side(settings)
    if distributed:
        raise UsageError(
            "--dnn-against compares in pairs, one launch at a time: leave out pytest-xdist's -n"
        )
    if settings.calibrate or settings.effect is not None:
        other = "--dnn-calibrate" if settings.calibrate else "--dnn-launches auto"
        raise UsageError(
            f"--dnn-against decides by itself how often it measures, and so does {other}: leave"
            " one of them out"
        )
    if settings.launches < FIRST_LOOK:
        raise UsageError(
            f"--dnn-launches {settings.launches}: with --dnn-against it is the most rounds, and"
            f" fewer than {FIRST_LOOK} cannot tell a difference from chance: give {FIRST_LOOK} or"
            " more, or leave it out"
        )
