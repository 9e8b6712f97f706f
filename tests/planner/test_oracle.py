"""The cost model `original` against recorded answers of PipeDream's own optimizer on its own
profiles.

They need data that is not part of the project; brute force in test_predict.py checks the same model
without it. Split indices are never compared: the original numbers states differently from run to
run.
"""

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.planner.levels import Level, levels_of
from pytest_dnnbench.planner.pipedream.cost_model import (
    Load,
    OriginalOptions,
    best_stages,
    data_parallel_s,
    pipeline_s,
    stages_s,
)
from pytest_dnnbench.planner.pipedream.planning import original_plan
from pytest_dnnbench.planner.profile_file import read_profile
from pytest_dnnbench.planner.states import States, states_of
from tests.planner.idle_workers import workers_may_idle

ITS_MEMORY_BYTES = 16e9
FINISHED_ROWS = 155


class Row:
    """One run of the original. The file's `row_fields` describe its fields.

    `fewer_workers`: the run had PipeDream's option that lets workers stay idle.
    """

    def __init__(self, fields: list[Any], states: States) -> None:
        (
            self.name,
            workers,
            bandwidths,
            options,
            self.bottleneck_s,
            self.data_parallel_s,
            self.single_s,
        ) = fields[:7]
        self.wall_s, self.status, self.entries = fields[7:]
        self.states = states
        self.levels = levels_of(workers, bandwidths)
        self.options = OriginalOptions(
            options.get("acr"),
            options.get("mem", ITS_MEMORY_BYTES) if options.get("memc") else None,
            not options.get("straight", False),
        )
        self.fewer_workers = bool(options.get("fewer", False))

    def __repr__(self) -> str:
        return f"{self.name} {self.levels} {self.options}"

    def its_cost_s(self) -> float:
        """Its plan costed by our formula; what it says of each stretch inside is checked on the
        way."""
        entries = iter(self.entries)
        outermost = [next(entries)]
        return self._cost_s(outermost, entries, self.levels)[0]

    def _cost_s(
        self, stretches: list[Any], entries: Iterator[Any], levels: tuple[Level, ...]
    ) -> list[float]:
        """The times of all stretches of one level; their stages are the stretches of the level
        inside."""
        stages = [stage for *_, its_stages in stretches for stage in its_stages]
        times = [stage[3] for stage in stages]
        if len(levels) > 1:
            times = self._cost_s([next(entries) for _ in stages], entries, levels[:-1])
        times_of_stages = iter(times)
        costs = []
        for *_, its_time_s, its_stages in stretches:
            loads = [
                Load(next(times_of_stages), stage[4], self._output(stage)) for stage in its_stages
            ]
            below = levels[-2].workers if len(levels) > 1 else 1
            compression = self.options.activation_compression
            costs.append(
                pipeline_s(
                    loads, [stage[2] for stage in its_stages], levels[-1], below, compression
                )
            )
            # Its cumulative sums leave 1e-16 where a stage has no time at all.
            assert math.isclose(costs[-1], its_time_s, rel_tol=1e-9, abs_tol=1e-14), self
        return costs

    def _output(self, stage: list[Any]) -> float | None:
        _, end, _, _, _, output_bytes, _ = stage
        return None if end == len(self.states) - 1 else float(output_bytes)


@pytest.fixture
def oracle(shared_data: Path) -> list[Row]:
    data = json.loads((shared_data / "pipedream" / "oracle.json").read_text())
    states = {}
    for name, about in data["profiles"].items():
        states[name] = states_of(
            read_profile(shared_data / "pipedream" / "profiles" / f"{name}.txt")
        )
        assert len(states[name]) - 1 == about["states"], "ours count the empty state too"
    return [Row(fields, states[fields[0]]) for fields in data["rows"]]


def test_every_finished_answer_of_the_original_is_ours(oracle: list[Row]) -> None:
    finished = [row for row in oracle if row.status == "ok"]
    assert len(finished) == FINISHED_ROWS
    for row in finished:
        with workers_may_idle() if row.fewer_workers else nullcontext():
            stages = best_stages(row.states, row.levels, row.options)
        ours_s = stages_s(row.states, stages, row.levels, row.options.activation_compression)
        assert math.isclose(ours_s, row.bottleneck_s, rel_tol=1e-9), row
        assert math.isclose(row.its_cost_s(), ours_s, rel_tol=1e-9), row
        single_s, parameter_bytes = (
            float(row.states.compute_s[-1]),
            float(row.states.parameter_bytes[-1]),
        )
        assert math.isclose(single_s, row.single_s, rel_tol=1e-9), row
        assert math.isclose(
            data_parallel_s(single_s, parameter_bytes, row.levels),
            row.data_parallel_s,
            rel_tol=1e-9,
        )


def test_where_the_original_crashes_for_want_of_a_plan_we_say_that_there_is_none(
    oracle: list[Row], shared_data: Path
) -> None:
    crashed = [row for row in oracle if row.status != "ok" and not row.fewer_workers]
    assert crashed
    for row in crashed:
        plan = original_plan(
            read_profile(shared_data / "pipedream" / "profiles" / f"{row.name}.txt"),
            [level.workers for level in row.levels],
            [level.bandwidth for level in row.levels],
            memory_bytes=row.options.memory_bytes,
            replication=row.options.replication,
        )
        assert plan.stages == ()
        assert "puts all" in plan.reason
