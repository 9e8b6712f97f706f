"""The schedule against its drawings, and played through with blocking all-reduces for every small
shape."""

import itertools
from collections import Counter

import pytest

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.layout import Layout
from pytest_dnnbench.planner.schedule import (
    VARIANTS,
    Backward,
    Forward,
    Schedule,
    Update,
    default_microbatches,
)
from tests.planner.versions import versions_kept

SHAPES = [
    shape
    for stages in range(1, 5)
    for shape in itertools.product(range(1, 5), repeat=stages)
    if sum(shape) <= 8
]


def schedule(
    variant: str, *replicas: int, microbatches: int | None = None, vertical_sync: bool = False
) -> Schedule:
    layout = Layout(replicas)
    many = default_microbatches(layout) if microbatches is None else microbatches
    return Schedule(variant, layout, many, vertical_sync)


def drawn(rule: Schedule, minibatches: int) -> str:
    """One line per rank, one column per unit of time: played with passes of one unit, everything
    else free."""
    rows = play(rule, minibatches)
    width = max(len(text) for row in rows for text in row) + 1
    length = max(map(len, rows))
    return "\n".join(
        "".join(f"{text:{width}}" for text in row + ["."] * (length - len(row))).rstrip()
        for row in rows
    )


def play(rule: Schedule, minibatches: int) -> list[list[str]]:
    """Runs all ranks in lock step, and returns a row per rank.

    A forward needs the stage before, a backward the stage after, an update all replicas. An update
    is drawn as a ' on the last backward that it waited for. Fails on a deadlock, and where a
    minibatch meets a version that is not there.
    """
    game = Game(rule, minibatches)
    while any(game.todo):
        for stage in range(len(rule.layout.replicas)):
            game.update(stage)
        ready = [rank for rank in range(rule.layout.world_size) if game.is_ready(rank)]
        assert ready or not any(game.todo), (
            f"deadlock of {rule.layout}: ranks wait for {[str(a[0]) for a in game.todo if a]}"
        )
        for rank, row in enumerate(game.rows):
            row.append(game.passed_by(rank) if rank in ready else ".")
    return [_without_idle_end(row) for row in game.rows]


class Game:
    """All ranks of a schedule: what each has left to do, and what it has done.

    done     the passes done: ("F" or "B", stage, minibatch)
    newest   the newest version of each rank
    kept     the versions that each rank holds
    met      of each rank, the version that each minibatch in flight has met
    """

    def __init__(self, rule: Schedule, minibatches: int) -> None:
        ranks = range(rule.layout.world_size)
        self.rule, self.layout = rule, rule.layout
        self.todo = [list(rule.actions(rank, minibatches)) for rank in ranks]
        self.rows: list[list[str]] = [[] for _ in ranks]
        self.done: set[tuple[str, int, int]] = set()
        self.newest = [0 for _ in ranks]
        self.kept = [{0} for _ in ranks]
        self.met: list[dict[int, int]] = [{} for _ in ranks]

    def update(self, stage: int) -> None:
        """Makes the updates that all replicas of the stage have come to."""
        ranks = [self.layout.rank(stage, n) for n in range(self.layout.replicas[stage])]
        while all(self.todo[rank] and isinstance(self.todo[rank][0], Update) for rank in ranks):
            updates = [self.todo[rank].pop(0) for rank in ranks]
            kinds = {(u.version, u.minibatches) for u in updates if isinstance(u, Update)}
            assert len(kinds) == 1, "replicas make the same update"
            for rank, update in zip(ranks, updates, strict=True):
                assert isinstance(update, Update)
                self._updated(rank, stage, update)

    def _updated(self, rank: int, stage: int, update: Update) -> None:
        self.newest[rank] += 1
        assert update.version == self.newest[rank]
        versions = {*self.kept[rank], update.version}
        self.kept[rank] = {version for version in versions if version >= update.oldest}
        in_flight = set(self.met[rank].values())
        assert in_flight <= self.kept[rank], "a version in flight was given up"
        assert len(self.kept[rank]) <= versions_kept(self.rule, stage)
        row = self.rows[rank]
        if row and row[-1].startswith("B"):
            row[-1] += "'"

    def is_ready(self, rank: int) -> bool:
        """Whether the tensors of the rank's next pass are there."""
        stage, _ = self.layout.place(rank)
        match self.todo[rank][:1]:
            case [Forward(minibatch)]:
                return stage == 0 or ("F", stage - 1, minibatch) in self.done
            case [Backward(minibatch)]:
                return stage == self.layout.last or ("B", stage + 1, minibatch) in self.done
        return False

    def passed_by(self, rank: int) -> str:
        """Makes the rank's next pass and returns its drawing."""
        stage, _ = self.layout.place(rank)
        action = self.todo[rank].pop(0)
        if isinstance(action, Forward):
            assert action.version in self.kept[rank], f"{action} of rank {rank} meets no weights"
            self.met[rank][action.minibatch] = action.version
            self.done.add(("F", stage, action.minibatch))
        else:
            assert isinstance(action, Backward)
            del self.met[rank][action.minibatch]
            self.done.add(("B", stage, action.minibatch))
        return str(action).partition("@")[0]


def _without_idle_end(row: list[str]) -> list[str]:
    while row and row[-1] == ".":
        row.pop()
    return row


def test_two_stages_read_as_in_the_modules_docstring() -> None:
    rule = schedule("pipedream", 1, 1)
    assert " ".join(map(str, rule.actions(0, 4))) == "F0@0 F1@0 B0 U1 F2@1 B1 U2 F3@2 B2 U3 B3 U4"
    assert " ".join(map(str, rule.actions(1, 4))) == "F0@0 B0 U1 F1@1 B1 U2 F2@2 B2 U3 F3@3 B3 U4"


def test_asynchronous_one_forward_one_backward_is_the_drawn_triangle() -> None:
    assert drawn(schedule("pipedream", 1, 1, 1), 5) == (
        "F0  F1  F2  .   .   B0' F3  B1' F4  B2' .   B3' .   B4'\n"
        ".   F0  F1  .   B0' F2  B1' F3  B2' F4  B3' .   B4' .\n"
        ".   .   F0  B0' F1  B1' F2  B2' F3  B3' F4  B4' .   ."
    )


def test_a_replicated_stage_takes_turns() -> None:
    assert drawn(schedule("pipedream", 2, 1), 5) == (
        "F0  F2  .   B0  .   .   F4  B2  .   .   .   B4'\n"
        "F1  F3  .   .   .   B1' .   .   .   B3' .   .\n"
        ".   F0  B0' F1  B1' F2  B2' F3  B3' F4  B4' ."
    )


def test_a_flush_drains_after_each_batch() -> None:
    assert drawn(schedule("pipedream-flush", 1, 1, microbatches=3), 6) == (
        "F0  F1  .   B0  F2  B1  .   B2' F3  F4  .   B3  F5  B4  .   B5'\n"
        ".   F0  B0  F1  B1  F2  B2' .   .   F3  B3  F4  B4  F5  B5' ."
    )


def test_two_versions_run_on_without_a_flush() -> None:
    assert " ".join(map(str, schedule("pipedream-2bw", 1, 1, microbatches=2).actions(0, 6))) == (
        "F0@0 F1@0 B0 F2@0 B1 U1 F3@0 B2 F4@1 B3 U2 F5@1 B4 B5 U3"
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("replicas", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_no_shape_deadlocks_or_loses_weights_in_flight_for_any_number_of_minibatches(
    variant: str, replicas: tuple[int, ...]
) -> None:
    rule = schedule(variant, *replicas)
    for minibatches in (*range(1, 6), 3 * rule.microbatches - 1, 3 * rule.microbatches, 29):
        play(rule, minibatches)


@pytest.mark.parametrize("replicas", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_vertical_sync_finds_its_versions_on_every_stage(replicas: tuple[int, ...]) -> None:
    rule = schedule("pipedream", *replicas, vertical_sync=True)
    for minibatches in (1, 7, 29):
        play(rule, minibatches)


@pytest.mark.parametrize("replicas", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
@pytest.mark.parametrize("minibatches", [1, 11, 24])
def test_every_minibatch_passes_every_stage_once_and_counts_in_one_update(
    replicas: tuple[int, ...], minibatches: int
) -> None:
    rule = schedule("pipedream", *replicas)
    for stage, count in enumerate(replicas):
        ranks = [rule.layout.rank(stage, replica) for replica in range(count)]
        actions = [action for rank in ranks for action in rule.actions(rank, minibatches)]
        forwards = Counter(action.minibatch for action in actions if isinstance(action, Forward))
        backwards = Counter(action.minibatch for action in actions if isinstance(action, Backward))
        assert forwards == backwards == Counter(range(minibatches))
        updates = [
            action for action in rule.actions(ranks[-1], minibatches) if isinstance(action, Update)
        ]
        assert sum(update.minibatches for update in updates) == minibatches


def test_weights_are_as_old_as_the_papers_rule_has_them() -> None:
    rule = schedule("pipedream", 1, 1, 1, 1)
    for stage, minibatch in itertools.product(range(4), range(20)):
        assert rule.version(stage, minibatch) == max(minibatch - 4 + 1 + stage, 0)


def test_versions_kept_are_the_warm_up_and_one() -> None:
    rule = schedule("pipedream", 1, 1, 1, 1)
    assert [versions_kept(rule, stage) for stage in range(4)] == [4, 3, 2, 1]


def test_the_ideal_bubble_is_that_of_a_flush() -> None:
    assert schedule("pipedream-flush", 1, 1, 1, microbatches=6).ideal_bubble() == pytest.approx(
        2 / 8
    )
    assert schedule("pipedream", 1, 1, 1).ideal_bubble() == 0.0


def test_misfitting_microbatches_and_variants_are_refused() -> None:
    with pytest.raises(PlanError, match="multiple of 2"):
        Schedule("pipedream-flush", Layout((2, 1)), 3)
    with pytest.raises(PlanError, match="at least 2 microbatches, not 1"):
        Schedule("pipedream-2bw", Layout((1, 1, 1)), 1)
    with pytest.raises(PlanError, match="one version on all stages"):
        Schedule("pipedream-2bw", Layout((1, 1)), 2, vertical_sync=True)
    with pytest.raises(PlanError, match="unknown"):
        Schedule("gpipe", Layout((1, 1)))
