"""The one definition of throughput, on reports written by hand."""

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import (
    PipelineFacts,
    PlanDecision,
    PredictedStep,
    RankReport,
)
from pytest_dnnbench.metrics import METRICS, Metric
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.results.baselines.case_baseline import NoBaseline
from pytest_dnnbench.results.baselines.comparability import alike, differences, facts_of
from pytest_dnnbench.results.records.measurement import Launch, Measurement, check_metrics
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.schema import (
    Conditions,
    CorrectnessEntry,
    Environment,
    MetricEntry,
    NodeConditions,
    Record,
)
from pytest_dnnbench.results.records.speed_up import SpeedUps, relate, speed_ups_of
from pytest_dnnbench.results.verdicts.judge import limits_of, thresholds


def report(
    rank: int, ends: list[float], *, start: float = 0.0, images: int = 8, **more: object
) -> RankReport:
    fields: dict[str, object] = {
        "step_index": tuple(range(len(ends))),
        "step_samples": (images,) * len(ends),
        "samples_per_update": 16,
        "metrics": {"resident_peak_bytes": 100 + rank},
        **more,
    }
    return RankReport(rank, start, ends[-1] if ends else 1.0, step_end_s=tuple(ends), **fields)  # type: ignore[arg-type]


def test_the_slowest_rank_decides() -> None:
    launch = Launch((report(0, [1.0, 2.0]), report(1, [1.5, 4.0])))
    assert launch.throughput == 32 / 4.0
    assert launch.step_time_s == [1.5, 2.5]
    assert launch.figures(METRICS["resident_peak_bytes"]) == [100, 101]
    assert launch.figures(METRICS["allocated_peak_bytes"]) == []


def test_a_pipelines_steps_are_the_intervals_of_its_last_stage() -> None:
    first = report(0, [0.5, 1.5, 2.5, 3.0], images=0)
    last = report(1, [1.0, 2.0, 3.0, 4.0])
    launch = Launch((first, last))
    assert launch.throughput == 32 / 4.0
    assert launch.step_time_s == [1.0, 1.0, 1.0, 1.0]


def test_replicas_of_a_last_stage_take_turns() -> None:
    even = report(0, [1.0, 3.0], step_index=(0, 2))
    odd = report(1, [2.0, 4.0], step_index=(1, 3))
    assert Launch((even, odd)).step_time_s == [1.0, 1.0, 1.0, 1.0]


def test_steps_that_one_update_completes_together_share_its_time() -> None:
    first = report(0, [2.0, 6.0], step_index=(0, 2), images=8, samples_per_update=16)
    second = report(1, [2.0, 6.5], step_index=(1, 3), images=8, samples_per_update=16)
    assert Launch((first, second)).step_time_s == [1.0, 1.0, 2.25, 2.25]
    fed_in_twos = report(0, [1.5, 2.0, 5.5, 6.0], images=8, samples_per_update=16)
    assert Launch((fed_in_twos,)).step_time_s == [1.0, 1.0, 2.0, 2.0]


def test_a_frameworks_own_metric_is_the_mean_over_its_ranks() -> None:
    launch = Launch(
        (
            report(0, [1.0], metrics={"bubble_fraction": 0.1}),
            report(1, [1.0], metrics={"bubble_fraction": 0.3}),
        )
    )
    made = make_record(replace(measurement("pipedream", 2, [1.0]), launches=(launch, launch)))
    assert made.metrics["bubble_fraction"].per_launch == [pytest.approx(0.2)] * 2
    assert made.metrics["bubble_fraction"].per_rank == [0.1, 0.3]


def test_loss_is_the_mean_over_ranks_and_accuracy_over_images() -> None:
    launch = Launch(
        (
            report(0, [1.0], loss=(2.0, 1.0), validation=(8, 10)),
            report(1, [1.0], loss=(4.0, 3.0), validation=(1, 20)),
        )
    )
    assert launch.loss == [3.0, 2.0]
    assert launch.validation_accuracy == pytest.approx(0.3)


def measurement(framework: str, gpus: int, walls: list[float], **case: object) -> Measurement:
    launches = tuple(Launch(tuple(report(rank, [wall]) for rank in range(gpus))) for wall in walls)
    made = Case(framework, "m", gpus, "train", **case)  # type: ignore[arg-type]
    return Measurement(
        made,
        launches,
        CorrectnessEntry(),
        Environment(must_match={}),
        oversubscribed=False,
        steps=1,
        warmup=0,
    )


def measured(framework: str, gpus: int, walls: list[float], **case: object) -> Record:
    return make_record(measurement(framework, gpus, walls, **case))


@pytest.mark.parametrize(("over_ranks", "job"), [("max", 3.0), ("mean", 2.0), ("sum", 4.0)])
def test_a_row_says_how_the_figures_of_ranks_become_the_jobs(
    over_ranks: str, job: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Metric("energy_j", "J", "lower", over_ranks=over_ranks)  # type: ignore[arg-type] # as parametrised
    monkeypatch.setitem(METRICS, "energy_j", row)
    reports = (
        report(0, [1.0], metrics={"energy_j": 1.0}),
        report(1, [1.0], metrics={"energy_j": 3.0}),
    )
    made = make_record(replace(measurement("ddp", 2, [1.0]), launches=(Launch(reports),) * 2))
    expected = MetricEntry(
        value=job, unit="J", better="lower", per_launch=[job] * 2, per_rank=[1.0, 3.0]
    )
    assert made.metrics["energy_j"] == expected
    alone = Launch((report(0, [1.0], metrics={"energy_j": 1.0}), report(1, [1.0], metrics={})))
    made = make_record(replace(measurement("ddp", 2, [1.0]), launches=(alone,)))
    assert made.metrics["energy_j"].per_launch == [1.0]
    assert made.metrics["energy_j"].per_rank == [], "one rank of two: nobody could say which"


def test_a_metric_that_one_launch_lacks_is_left_out() -> None:
    with_yardstick = Launch((report(0, [1.0]),), Conditions(yardstick_s=0.5))
    launches = (with_yardstick, with_yardstick)
    made = make_record(replace(measurement("single", 1, [1.0]), launches=launches))
    assert made.metrics["yardstick_s"].per_launch == [0.5, 0.5]
    launches = (with_yardstick, Launch((report(0, [1.0]),)))
    made = make_record(replace(measurement("single", 1, [1.0]), launches=launches))
    assert "yardstick_s" not in made.metrics


def test_throughput_is_in_the_cases_own_samples() -> None:
    launch = Launch((report(0, [1.0], sample="tok"),))
    made = make_record(replace(measurement("single", 1, [1.0]), launches=(launch,)))
    assert (made.run.sample, made.metrics["throughput"].unit) == ("tok", "tok/s")
    assert measured("single", 1, [1.0]).metrics["throughput"].unit == "img/s"


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"goodness": 1.0}, UsageError, "rank 1 .*'goodness'.*pytest_dnnbench_metrics"),
        ({"throughput": 1.0}, UsageError, "'throughput'.*measured of the job as a whole"),
        ({"bubble_fraction": math.nan}, WrongResult, "'bubble_fraction' as nan: .* finite"),
    ],
)  # fmt: skip
def test_a_metric_that_cannot_be_is_refused_with_who_reported_it(
    metrics: dict[str, float], error: type[Exception], message: str
) -> None:
    case = Case("mine", "m", 2, "train")
    check_metrics(case, [report(0, [1.0]), report(1, [1.0])])
    with pytest.raises(error, match=rf"mine-m-2gpu \(train\): .*{message}"):
        check_metrics(case, [report(0, [1.0]), report(1, [1.0], metrics=metrics)])


def test_speed_up_pairs_launches_of_the_same_round() -> None:
    single = measured("single", 1, [1.0, 2.0, 4.0])
    ddp = measured("ddp", 2, [1.0, 2.0, 4.0])
    relate([single, ddp])
    relate([single, ddp])
    assert ddp.metrics["speedup"].per_launch == [2.0, 2.0, 2.0]
    assert ddp.metrics["scaling_efficiency"].value == 1.0
    assert single.metrics["speedup"].value == 1.0


def test_cases_measured_before_single_get_their_speed_up_when_it_comes() -> None:
    first, second = measured("ddp", 2, [1.0]), measured("ddp", 4, [1.0])
    other = measured("ddp", 2, [1.0], seed=1)
    speed_ups = SpeedUps()
    for made in (first, other):
        speed_ups.add(made)
    assert "speedup" not in first.metrics
    for made in (measured("single", 1, [2.0]), second):
        speed_ups.add(made)
    assert first.metrics["speedup"].value == 4.0
    assert second.metrics["speedup"].value == 8.0
    assert "speedup" not in other.metrics


def test_fresh_launches_are_divided_by_what_single_did_before() -> None:
    single, ddp = measured("single", 1, [1.0] * 3), measured("ddp", 2, [1.0] * 3)
    assert speed_ups_of(ddp, [16.0]) == {}
    relate([single, ddp])
    assert speed_ups_of(ddp, [16.0, 8.0]) == {
        "speedup": [2.0, 1.0],
        "scaling_efficiency": [1.0, 0.5],
    }
    ddp.metrics["speedup"].disturbed = ["busy", "busy", None]
    assert speed_ups_of(ddp, [16.0]) == {}


def on_nodes(framework: str, ranks: list[int], times: list[float], **case: Any) -> Record:
    """A case on nodes of so many ranks."""
    made = measured(framework, sum(ranks), times, nodes=len(ranks), **case)
    nodes = [NodeConditions(name=f"n{number}", ranks=count) for number, count in enumerate(ranks)]
    made.launches = [
        msgspec.structs.replace(launch, conditions=Conditions(nodes=nodes))
        for launch in made.launches
    ]
    return made


def test_efficiency_within_a_node_and_across_nodes_are_apart() -> None:
    """A step takes 1 s on one rank, 1.25 s on the four of a node, and 2 s on those of two nodes;
    whatever comes first, each gets its figures when it can."""
    single, node, both = (
        measured("single", 1, [1.0, 2.0]),
        on_nodes("ddp", [4], [1.25, 2.5]),
        on_nodes("ddp", [4, 4], [2.0, 4.0]),
    )
    for order in itertools.permutations((single, node, both)):
        records = [copy.deepcopy(record) for record in order]
        speed_ups = SpeedUps()
        for record in records:
            speed_ups.add(record)
        record = records[order.index(both)]
        assert record.metrics["efficiency_within_node"].per_launch == [0.8, 0.8]
        assert record.metrics["efficiency_across_nodes"].per_launch == [0.625, 0.625]
        assert record.metrics["scaling_efficiency"].per_launch == [0.5, 0.5]
        assert "efficiency_across_nodes" not in records[order.index(node)].metrics
    # The reference made 51.2 and 25.6 on both nodes, 38.4 in the middle; single 6 in the middle.
    fresh = speed_ups_of(record, [38.4, 19.2])
    assert fresh["efficiency_across_nodes"] == pytest.approx([1.0, 0.5])
    assert fresh["efficiency_within_node"] == pytest.approx([0.8, 0.8])
    assert fresh["scaling_efficiency"] == pytest.approx([0.8, 0.4])


def test_a_case_has_no_efficiency_across_nodes_without_the_one_that_fills_a_node() -> None:
    single, both = measured("single", 1, [1.0]), on_nodes("ddp", [2, 2], [1.0])
    others = [
        on_nodes("ddp", [4], [1.0]),  # more ranks than one of its nodes has
        on_nodes("horovod", [2], [1.0]),
        on_nodes("ddp", [2], [1.0], options={"bucket_mb": 1}),
        on_nodes("ddp", [2], [1.0], seed=1),
    ]
    relate([single, both, *others])
    assert "efficiency_across_nodes" not in both.metrics
    uneven = on_nodes("ddp", [2, 1], [1.0])
    relate([single, uneven, on_nodes("ddp", [2], [1.0])])
    assert "efficiency_across_nodes" not in uneven.metrics


def test_one_rank_on_each_node_is_held_against_its_own_framework_or_else_single() -> None:
    single, both = measured("single", 1, [1.0]), on_nodes("ddp", [1, 1], [2.0])
    relate([single, both])
    assert both.metrics["efficiency_across_nodes"].value == 0.5
    assert both.metrics["efficiency_within_node"].value == 1.0
    # A session on one machine records no nodes.
    relate([single, both, measured("ddp", 1, [1.25])])
    assert both.metrics["efficiency_across_nodes"].value == 0.625
    assert both.metrics["efficiency_within_node"].value == 0.8


def test_strong_scaling_is_held_against_the_same_global_batch() -> None:
    single = measured("single", 1, [1.0], scaling="strong", batch_size=16)
    matching = measured("ddp", 2, [1.0], scaling="strong", batch_size=8)
    other = measured("ddp", 2, [1.0], scaling="strong", batch_size=16)
    relate([single, matching, other])
    assert "speedup" in matching.metrics
    assert "speedup" not in other.metrics


def test_thresholds_are_one_sided_and_in_the_metrics_own_unit() -> None:
    metrics = measured("single", 1, [1.0]).metrics
    limits = thresholds(metrics, limits_of(metrics, NoBaseline(), []))
    assert limits["throughput"].limit == pytest.approx(8 * 0.97)
    assert limits["step_time_s"].limit == pytest.approx(1.03)
    assert limits["resident_peak_bytes"].source == "default"


def test_a_pipelines_plan_is_on_record_with_what_came_of_it() -> None:
    plan = Plan("corrected", (2,), 0.5, 1.0, 1.0, 2.0, ())
    decision = PlanDecision(plan, "planner", 1e9, 1.01, runtime_s=0.002)
    reports = tuple(
        report(
            rank,
            [1.0, 3.0],
            pipeline=PipelineFacts(decision, "1-1", "pipeline", 0.9, 1.5, rank, 0, 2, 10, 10, 40.0),
        )
        for rank in range(2)
    )
    later = Launch((reports[0], report(1, [1.0, 2.0], metrics={"resident_peak_bytes": 300})))
    made = make_record(
        replace(measurement("pipedream", 2, [1.0]), launches=(Launch(reports), later))
    )
    assert made.plan is not None
    assert made.plan.plan is decision.plan
    assert (made.plan.shape, made.plan.decided_by) == ("1-1", "planner")
    assert made.plan.measured_step_time_s == 1.5
    assert made.prediction is not None, "of every pipeline, beside the plan"
    assert (made.prediction.step_time_s, made.prediction.measured_step_time_s) == (0.9, 1.5)
    assert made.prediction.error == pytest.approx(1.5 / 0.9 - 1)
    assert made.prediction.profile_parts_over_whole == 1.01
    assert made.prediction.runtime_s == 0.002
    assert [(rank.stage, rank.peak_bytes) for rank in made.plan.ranks] == [(0, 100), (1, 300)]
    assert measured("ddp", 2, [1.0]).plan is None


@pytest.mark.parametrize("asked", [False, True])
def test_a_plan_without_times_says_so_to_who_asks_for_a_prediction(asked: bool) -> None:
    decision = PlanDecision(Plan("corrected", (2,), None, 0.0, 0.0, 2.0, ()), "user")
    facts = PipelineFacts(decision, "1-1", "pipeline", 0.0, 0.0, 0, 0, 2, 10, 10, 40.0)
    launch = Launch((report(0, [1.0], pipeline=facts),))
    made = replace(
        measurement("1f1b", 1, [1.0]),
        launches=(launch,),
        prediction=PredictedStep(refused="its framework has no prediction") if asked else None,
    )
    entry = make_record(made).prediction
    if asked:
        assert entry is not None
        assert (entry.asked, entry.refused) == (True, "the plan that was given has no times in it")
    else:
        assert entry is None


def test_launches_are_compared_by_the_lengths_asked_for_not_by_what_came_of_them() -> None:
    def made(warmup_steps: int, steady: bool) -> Record:
        fields: dict[str, Any] = {"warmup_steps": warmup_steps, "warmup_s": 0.5, "steady": steady}
        launch = Launch(
            (report(0, [1.0], **fields), report(1, [1.0], **fields | {"warmup_s": 0.7}))
        )
        asked = replace(measurement("ddp", 2, [1.0]), launches=(launch,), warmup="auto", steps="1s")
        return make_record(asked)

    first, second = made(4, True), made(9, False)
    assert alike(first, second)
    assert not differences(facts_of(first), facts_of(second))
    counted = make_record(measurement("ddp", 2, [1.0]))
    differ = {difference.fact for difference in differences(facts_of(counted), facts_of(first))}
    assert differ == {"steps", "warmup"}
    entry = second.launches[0]
    assert (entry.warmup_steps, entry.warmup_s, entry.steady) == (9, 0.7, False)
