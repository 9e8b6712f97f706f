"""The one definition of throughput, on reports written by hand."""

from dataclasses import replace

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness, RankReport
from pytest_dnnbench.results.records.measurement import Launch, Measurement, agree, same_model
from pytest_dnnbench.results.records.record import make_record, relate
from pytest_dnnbench.results.verdicts.judge import limits_of, thresholds


def report(
    rank: int, ends: list[float], *, start: float = 0.0, images: int = 8, **more: object
) -> RankReport:
    fields: dict[str, object] = {
        "step_index": tuple(range(len(ends))),
        "step_samples": (images,) * len(ends),
        "samples_per_update": 16,
        "memory_bytes": {"resident": 100 + rank},
        **more,
    }
    return RankReport(rank, start, ends[-1] if ends else 1.0, step_end_s=tuple(ends), **fields)  # type: ignore[arg-type]


def test_the_slowest_rank_decides() -> None:
    launch = Launch((report(0, [1.0, 2.0]), report(1, [1.5, 4.0])))
    assert launch.throughput == 32 / 4.0
    assert launch.step_time_s == [1.5, 2.5]
    assert launch.memory("resident") == [100, 101]
    assert launch.memory("allocated") is None


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
    assert made["metrics"]["bubble_fraction"]["per_launch"] == [pytest.approx(0.2)] * 2
    assert made["metrics"]["bubble_fraction"]["per_rank"] == [0.1, 0.3]


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
    return Measurement(made, launches, {}, {}, oversubscribed=False, steps=1, warmup=0)


def test_speed_up_pairs_launches_of_the_same_round() -> None:
    single = make_record(measurement("single", 1, [1.0, 2.0, 4.0]))
    ddp = make_record(measurement("ddp", 2, [1.0, 2.0, 4.0]))
    relate([single, ddp])
    relate([single, ddp])
    assert ddp["metrics"]["speedup"]["per_launch"] == [2.0, 2.0, 2.0]
    assert ddp["metrics"]["scaling_efficiency"]["value"] == 1.0
    assert single["metrics"]["speedup"]["value"] == 1.0


def test_strong_scaling_is_held_against_the_same_global_batch() -> None:
    single = make_record(measurement("single", 1, [1.0], scaling="strong", batch_size=16))
    matching = make_record(measurement("ddp", 2, [1.0], scaling="strong", batch_size=8))
    other = make_record(measurement("ddp", 2, [1.0], scaling="strong", batch_size=16))
    relate([single, matching, other])
    assert "speedup" in matching["metrics"]
    assert "speedup" not in other["metrics"]


def test_thresholds_are_one_sided_and_in_the_metrics_own_unit() -> None:
    metrics = make_record(measurement("single", 1, [1.0]))["metrics"]
    limits = thresholds(metrics, limits_of(metrics, None, []))
    assert limits["throughput"]["limit"] == pytest.approx(8 * 0.97)
    assert limits["step_time_s"]["limit"] == pytest.approx(1.03)
    assert limits["resident_peak_bytes"]["source"] == "default"


def test_ranks_that_differ_in_a_bit_are_no_result() -> None:
    case = Case("ddp", "m", 2, "train")
    one = Correctness({"parameters": 0.0}, {"parameters": 1e-9}, about={"digest": "a"})
    other = Correctness({}, {}, about={"digest": "b"})
    assert agree(case, [one, one])["checked"] == ["parameters"]
    with pytest.raises(WrongResult, match="rank 1 holds other values than rank 0"):
        agree(case, [one, other])


def test_ranks_that_hold_the_same_weights_have_trained_the_same_model() -> None:
    case = Case("ddp", "m", 3, "train")
    same_model(case, [report(rank, [1.0], fingerprint="a") for rank in range(3)])


@pytest.mark.parametrize(
    ("fingerprints", "culprit"),
    [("aba", "rank 1 of 3"), ("baa", "rank 0 of 3"), ("ab", "rank 1 of 2")],
)
def test_a_rank_that_holds_other_weights_than_most_is_named(
    fingerprints: str, culprit: str
) -> None:
    reports = [report(rank, [1.0], fingerprint=one) for rank, one in enumerate(fingerprints)]
    with pytest.raises(WrongResult, match=f"{culprit} holds another model"):
        same_model(Case("ddp", "m", len(fingerprints), "train"), reports)
