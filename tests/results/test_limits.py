"""Limits as people write them, and which of several holds."""

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.baselines.limits import (
    Limit,
    limit_in_force,
    limit_text,
    parse_limit,
    parse_limit_list,
    stored_limit,
)
from pytest_dnnbench.results.records.schema import LimitEntry


@pytest.mark.parametrize(
    ("metric", "text", "relative", "absolute"),
    [
        ("throughput", "-5%", -0.05, None),
        ("throughput", ">=3000", None, 3000),
        ("throughput", ">= 3000", None, 3000),
        ("throughput", "-2.5% >=1e3img/s", -0.025, 1000),
        ("allocated_peak_bytes", "+1%", 0.01, None),
        ("allocated_peak_bytes", "<=6GiB", None, 6 * 2**30),
        ("allocated_peak_bytes", "0%", 0.0, None),
        ("step_time_s", "<=12ms", None, 0.012),
        ("scaling_efficiency", ">=90%", None, 0.9),
        ("scaling_efficiency", ">=0.9", None, 0.9),
    ],
)
def test_limits_are_read(
    metric: str, text: str, relative: float | None, absolute: float | None
) -> None:
    limit = parse_limit(metric, text, "marker")
    assert limit.relative == (None if relative is None else pytest.approx(relative))
    assert limit.absolute == (None if absolute is None else pytest.approx(absolute))
    assert parse_limit(metric, limit_text(metric, limit), "") == Limit(
        limit.relative, limit.absolute
    )


@pytest.mark.parametrize(
    ("metric", "text", "message"),
    [
        ("speed", "-5%", "unknown metric 'speed': choose from throughput"),
        ("throughput", "+5%", "would limit an improvement: higher is better, so write -5%"),
        ("throughput", "5%", "lacks its sign: write -5%"),
        ("throughput", "<=5", "bounds the good side: higher is better, so write >="),
        ("throughput", "-5", "is not a limit"),
        ("throughput", "", "is not a limit"),
        ("throughput", "-100%", "must stay below 100%"),
        ("allocated_peak_bytes", "<=6Gb", "unknown unit: choose from B, KiB"),
        ("allocated_peak_bytes", "<=0", "must be finite and above zero"),
        ("step_time_s", "<=1e999", "must be finite"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(metric: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_limit(metric, text, "marker")


def test_a_list_of_limits_is_read_and_doubles_are_refused() -> None:
    limits = parse_limit_list(["throughput>=3000", "step_time_s=+5%"], "--dnn-limits")
    assert (limits["throughput"].absolute, limits["step_time_s"].relative) == (3000, 0.05)
    with pytest.raises(UsageError, match="limited twice"):
        parse_limit_list(["step_time_s=+5%", "step_time_s=+6%"], "--dnn-limits")
    with pytest.raises(UsageError, match="write METRIC=LIMIT"):
        parse_limit_list(["fast"], "--dnn-limits")


@pytest.mark.parametrize(
    ("text", "kind"), [("-5% -3%", "change"), ("-0% -3%", "change"), (">=3000 -3% >=2000", "bound")]
)
def test_of_two_limits_of_a_kind_in_one_text_none_wins_in_silence(text: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f"two limits of a {kind}: keep one"):
        parse_limit("throughput", text, "marker")


def test_the_nearest_to_the_user_wins_for_each_kind_of_limit() -> None:
    def layer(text: str, source: str) -> dict[str, Limit]:
        return {"throughput": parse_limit("throughput", text, source)}

    command, ini, marker = (
        layer("-9%", "command line"),
        layer(">=100", "ini"),
        layer("-1% >=50", "marker"),
    )
    limit = limit_in_force("throughput", [command, ini, marker])
    assert limit == Limit(-0.09, 100.0, "command line", "ini")
    limit = limit_in_force("throughput", [{}, {}, marker])
    assert limit is not None
    assert limit.relative_source == "marker"
    assert limit_in_force("throughput", [layer("off", "command line"), marker]) is None
    default = limit_in_force("throughput", [{}, ini])
    assert default is not None
    assert (default.relative, default.relative_source, default.absolute) == (-0.03, "default", 100)
    assert limit_in_force("loss", [{}]) is None


def test_a_stored_limit_is_the_contract_and_a_stored_default_is_not() -> None:
    def stored(relative: float | None, absolute: float | None, source: str) -> Limit | None:
        entry = LimitEntry(relative=relative, absolute=absolute, source=source)
        return stored_limit("throughput", entry)

    assert stored(-0.05, None, "default") is None
    kept = stored(-0.05, 3000.0, "command line")
    assert kept is not None
    assert (kept.relative, kept.absolute, kept.relative_source) == (-0.05, 3000, "baseline")
    bound_alone = stored(-0.03, 3000.0, "default")
    assert bound_alone is not None
    assert (bound_alone.relative, bound_alone.absolute) == (None, 3000)
    assert stored(0.05, None, "marker") is None
