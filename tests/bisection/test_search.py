"""The search with measurements that are given: the right place, skips, blame, evidence that turns,
and that an interrupted one goes on where it was."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.find_commit import new_search
from pytest_dnnbench.bisection.comparing import CannotMeasure, SessionFailed, SessionPairs
from pytest_dnnbench.bisection.kept_search import Search
from pytest_dnnbench.bisection.search import (
    Ending,
    NoDifference,
    SearchProgress,
    most_sessions,
    run_search,
)
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.records.side_by_side import SideMetric
from pytest_dnnbench.results.statistics.change_search import ROUNDS


def judged(change: float, status: str | None = None) -> SideMetric:
    """What a session says of a case."""
    called = "worse" if change < -0.01 else "better" if change > 0.01 else "no evidence"
    return SideMetric(
        status=status or called,  # type: ignore[arg-type]
        a=1.0,
        b=1.0,
        change=change,
        interval=(change - 0.01, change + 0.01),
        detectable=0.02,
        pairs=8,
    )


@dataclass
class Machine:
    """Sessions of cases, each with the places at which it changes and by how much. `says` replaces
    what a comparison says, by its number; `broken` places cannot be measured."""

    changes: Mapping[str, Mapping[int, float]]
    says: Mapping[int, float] = field(default_factory=dict)
    broken: Mapping[int, str] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    asked: list[tuple[int, int, int, bool]] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def compare(
        self, search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        earlier, later = (int(each) for each in places)
        self.asked.append((earlier, later, rounds, resume))
        for place in (earlier, later):
            if place in self.broken:
                self._refuse(place)
        logs, verdicts = {}, {}
        for case, changes in self.changes.items():
            if case in search.others:
                continue
            total = sum(change for place, change in changes.items() if earlier < place <= later)
            total = self.says.get(len(self.asked), total)
            noise = self.noise.get(case, 0.003) * self.rng.standard_normal(ROUNDS)
            logs[case] = [float(each) for each in math.log1p(total) + noise - noise.mean()]
            verdicts[case] = judged(total)
        why = {case: [f"why: {earlier} to {later}", "  more of it"] for case in logs}
        return SessionPairs(logs, verdicts, {}, frozenset({"throughput"}), why)

    def _refuse(self, place: int) -> None:
        if self.broken[place] == "session":
            raise SessionFailed("pytest ended with status 4: nothing there")
        raise CannotMeasure(str(place), self.broken[place])


def run(machine: Machine, search: Search) -> Any:
    return run_search(search, machine.compare, lambda: None, lambda _: None)


@pytest.mark.parametrize("place", range(1, 12))
def test_the_place_of_the_change_is_named_with_its_size(place: int) -> None:
    machine, search = Machine({"case": {place: -0.03}}), new_search(11)
    ending = run(machine, search)
    assert isinstance(ending, Ending)
    assert (ending.settled, ending.best.before, ending.best.at) == (True, place - 1, place)
    assert ending.best.probability > 0.99
    assert ending.direct is not None
    assert ending.direct.change == pytest.approx(-0.03)
    assert ending.ends.change == pytest.approx(-0.03)
    assert machine.asked[0] == (0, 11, 16, False)
    assert {rounds for _, _, rounds, _ in machine.asked[1:]} == {ROUNDS}
    # log2(11) rounded up, the ends, and neighbours that had not been compared.
    assert len(machine.asked) <= 6


def test_neighbours_are_answered_by_the_first_session() -> None:
    machine = Machine({"case": {1: -0.03}})
    ending = run(machine, new_search(1))
    assert (ending.settled, ending.best.probability) == (True, 1.0)
    assert len(machine.asked) == 1


@pytest.mark.parametrize(("second", "is_part"), [(0.0, False), (-0.03, True)])
def test_a_second_change_is_noticed_and_no_noise_for_one(second: float, is_part: bool) -> None:
    machine = Machine({"case": {2: -0.05, 9: second}}, noise={"case": 0.01})
    ending = run(machine, new_search(9))
    assert (ending.settled, ending.best.at, ending.is_part) == (True, 2, is_part)


def test_a_gain_is_searched_for_as_a_loss_is() -> None:
    ending = run(Machine({"case": {3: +0.05}}), new_search(6))
    assert (ending.settled, ending.best.at) == (True, 3)


def test_without_a_difference_between_good_and_bad_nothing_is_searched() -> None:
    machine, search = Machine({"case": {4: 0.001}}), new_search(8)
    answer = run(machine, search)
    assert isinstance(answer, NoDifference)
    assert answer.judged["case"].detectable == 0.02
    assert len(machine.asked) == 1


def test_an_answer_that_was_wrong_is_taken_back_by_those_that_follow() -> None:
    """The first comparison after the ends says "like bad" of a place before the change."""
    machine = Machine({"case": {7: -0.03}}, says={2: -0.03})
    search = new_search(8)
    ending = run(machine, search)
    assert machine.asked[1][:2] == (0, 4)
    assert (ending.settled, ending.best.at) == (True, 7)


def test_the_case_that_did_not_change_is_not_launched_any_more() -> None:
    machine = Machine({"slow": {3: -0.05}, "alike": {}, "fast": {2: +0.05}})
    search = new_search(6)
    ending = run(machine, search)
    assert ending.best.at == 3
    assert search.others == ["alike", "fast"]
    assert search.comparisons[0].logs.keys() == {"slow"}


def test_a_steady_case_outweighs_a_noisy_one() -> None:
    machine = Machine(
        {"steady": {3: -0.03}, "noisy": {3: -0.03}}, noise={"steady": 0.003, "noisy": 0.1}
    )
    search = new_search(6)
    ending = run(machine, search)
    assert ending.best.at == 3
    assert search.cases["steady"] > 100 * search.cases["noisy"]
    assert ending.direct.interval[1] - ending.direct.interval[0] < 0.02


def test_places_that_cannot_be_measured_are_skipped_and_stay_possible() -> None:
    machine = Machine({"case": {5: -0.03}}, broken={4: "no build", 5: "no build", 6: "session"})
    search, reported = new_search(10), list[SearchProgress]()
    ending = run_search(search, machine.compare, lambda: None, reported.append)
    assert isinstance(ending, Ending)
    assert (ending.settled, ending.best.before, ending.best.at) == (True, 3, 7)
    assert set(search.unmeasurable) <= {4, 5, 6}
    assert search.unmeasurable[5] == "no build"
    assert "status 4" in search.unmeasurable.get(6, "status 4")
    skipped = [each.skipped.place for each in reported if each.skipped]
    assert len(skipped) == len(set(skipped)) == len(search.unmeasurable), "each is tried once"


@pytest.mark.parametrize("place", [0, 8])
def test_good_and_bad_must_be_measurable(place: int) -> None:
    with pytest.raises(CannotMeasure, match="no build"):
        run(Machine({"case": {5: -0.03}}, broken={place: "no build"}), new_search(8))


def test_a_case_that_fails_on_one_side_skips_that_place() -> None:
    machine = Machine({"case": {2: -0.03}})
    compare, search = machine.compare, new_search(4)

    def failing(
        search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        result = compare(search, places, rounds, resume=resume)
        if places[1] == "2":
            return SessionPairs({}, {}, {"case": "RuntimeError: no kernel"}, frozenset())
        return result

    ending = run_search(search, failing, lambda: None, lambda _: None)
    assert isinstance(ending, Ending)
    assert search.unmeasurable == {2: "case: RuntimeError: no kernel"}
    assert (ending.best.before, ending.best.at) == (1, 3)


def test_a_session_that_fails_with_two_sides_that_ran_before_ends_the_search() -> None:
    machine, search = Machine({"case": {2: -0.03}}), new_search(3)
    compare = machine.compare

    def full(search: Search, places: tuple[str, str], rounds: int, *, resume: bool) -> SessionPairs:
        if places == ("1", "2"):
            raise SessionFailed("no space left on device")
        return compare(search, places, rounds, resume=resume)

    with pytest.raises(UsageError, match="both of its sides had been measured: no space left"):
        run_search(search, full, lambda: None, lambda _: None)
    assert len(search.comparisons) == 3


def test_a_metric_that_no_case_has_is_refused_with_those_that_there_are() -> None:
    search = new_search(3)
    search.metric = "speed"

    def compare(*_: object, **__: object) -> SessionPairs:
        return SessionPairs({}, {}, {}, frozenset({"throughput", "step_time_s"}))

    with pytest.raises(UsageError, match="no case has the metric speed: choose from step_time_s"):
        run_search(search, compare, lambda: None, lambda _: None)


def test_a_bad_side_that_fails_is_named() -> None:
    def compare(*_: object, **__: object) -> SessionPairs:
        return SessionPairs({}, {}, {"case": "ImportError: no module"}, frozenset())

    with pytest.raises(CannotMeasure, match="3: case: ImportError: no module"):
        run_search(new_search(3), compare, lambda: None, lambda _: None)


def test_after_so_many_sessions_a_search_ends_unsettled_and_can_go_on() -> None:
    machine, search = Machine({"case": {5: -0.03}}), new_search(40)
    search.most_sessions = 3
    ending = run(machine, search)
    assert not ending.settled
    assert len(machine.asked) == 3
    search.most_sessions = 0
    assert run(machine, search).best.at == 5
    assert most_sessions(search) == 2 * 6 + 20


@pytest.mark.parametrize("number", range(1, 6))
def test_an_interrupted_search_goes_on_with_what_it_has(number: int) -> None:
    """Interrupted in its n-th session: what is kept is whole, no comparison is made twice, and the
    interrupted one is continued."""
    whole = Machine({"case": {6: -0.03}})
    expected = new_search(9)
    run(whole, expected)
    assert len(whole.asked) >= number
    machine, search = Machine({"case": {6: -0.03}}), new_search(9)
    kept = list[bytes]()

    def interrupted(
        search: Search, places: tuple[str, str], rounds: int, *, resume: bool
    ) -> SessionPairs:
        if len(search.comparisons) == number - 1:
            raise KeyboardInterrupt
        return machine.compare(search, places, rounds, resume=resume)

    with pytest.raises(KeyboardInterrupt):
        run_search(search, interrupted, keeper(search, kept), lambda _: None)
    again = msgspec.json.decode(kept[-1], type=Search)
    ending = run(machine, again)
    assert ending.best.at == 6
    assert [each[:3] for each in machine.asked] == [each[:3] for each in whole.asked]
    assert [each[3] for each in machine.asked] == [
        position == number - 1 for position in range(len(machine.asked))
    ]


def keeper(search: Search, kept: list[bytes]) -> Callable[[], None]:
    return lambda: kept.append(msgspec.json.encode(search))
