"""The rows of the metrics: what a row says, and which rows are refused."""

import pytest

from pytest_dnnbench import metrics
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import METRICS, Metric, add_metrics, metric_row


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "a b"}, "'a b': a name has letters"),
        ({"better": "more"}, "better is 'more': write 'higher' or 'lower'"),
        ({"over_ranks": "median"}, "over_ranks is 'median': choose from job, max, mean, sum"),
        ({"tolerance": 5.0}, "tolerance 5.0 is not between 0 and 1"),
        ({"granularity": -1.0}, "granularity -1.0 is negative"),
    ],
)
def test_a_row_that_cannot_be_is_refused(row: dict[str, object], message: str) -> None:
    fields = {"name": "energy_j", "unit": "J", "better": "lower", **row}
    with pytest.raises(UsageError, match=message):
        Metric(**fields)  # type: ignore[arg-type] # as parametrised


def test_a_row_joins_once_and_another_of_its_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))
    row = Metric("energy_j", "J", "lower", over_ranks="sum")
    add_metrics([row])
    add_metrics([row])
    assert metric_row("energy_j") is row
    with pytest.raises(UsageError, match="'energy_j' is already there"):
        add_metrics([Metric("energy_j", "J", "higher")])
    with pytest.raises(UsageError, match="'throughput' is already there"):
        add_metrics([Metric("throughput", "req/s", "higher")])


def test_a_rate_is_in_the_samples_of_its_case() -> None:
    assert METRICS["throughput"].unit_of("tok") == "tok/s"
    assert METRICS["step_time_s"].unit_of("tok") == "s"


def test_a_metric_of_a_file_that_has_no_row_is_recorded_only() -> None:
    row = metric_row("someone_elses", "W", "higher")
    assert (row.title, row.unit, row.better) == ("someone_elses", "W", "higher")
    assert (row.tolerance, row.timed, row.exact, row.kept) == (None, False, False, False)


def test_every_built_in_metric_has_a_title_and_only_the_job_has_a_throughput() -> None:
    assert all(row.title != row.name or row.name == "throughput" for row in METRICS.values())
    assert METRICS["throughput"].over_ranks == "job"
    assert METRICS["allocated_peak_bytes"].over_all([1.0, 3.0]) == 3.0
