"""Parallel shapes: what they say, and what is none."""

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.shape import shape_of, shapes_of, splits_evenly


def test_a_shape_is_its_axes_in_one_order() -> None:
    shape = shape_of("dp2xtp4")
    assert str(shape) == "tp4xdp2"
    assert shape == shape_of("tp4xdp2")
    assert shape.gpus == 8
    assert shape.axes == {"tp", "dp"}


def test_one_gpu_alone_is_a_shape() -> None:
    assert str(shape_of("dp1")) == "dp1"
    assert shape_of("dp1").gpus == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no shape: write pp, tp, dp with a number of ranks"),
        ("dp", "is no shape"),
        ("dp0", "is no shape"),
        ("dp02", "is no shape"),
        ("2dp", "is no shape"),
        ("dp2x", "is no shape"),
        ("dp2xdp2", "is no shape"),
        ("ep2", "is no shape"),
        ("dp9999999", "is no shape"),
        ("tp1", "tp1 says nothing"),
        ("pp2xdp1", "dp1 says nothing"),
    ],
)
def test_nonsense_is_refused_in_a_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        shape_of(text)
    assert "\n" not in str(refused.value)


def test_a_shape_comes_once() -> None:
    with pytest.raises(UsageError, match="has tp2xdp2 twice: leave dp2xtp2 out"):
        shapes_of(["tp2xdp2", "dp2xtp2"])


def test_ranks_that_split_layers_make_whole_replicas() -> None:
    assert [count for count in range(1, 9) if splits_evenly("tp", count, {"ranks": 4})] == [4, 8]
    assert splits_evenly("tp", 3, {"ranks": 0})
    with pytest.raises(UsageError, match="--dnn-tp-ranks is 1: give at least 2, or 0"):
        splits_evenly("tp", 2, {"ranks": 1})
