"""What a comparison says of tensors of any type, and of elements that are not finite."""

import math

import pytest
import torch

from pytest_dnnbench.rank.proof.comparison import Comparison

TYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn),
    *(torch.float8_e5m2, torch.complex32, torch.complex64, torch.complex128),
    *(torch.int8, torch.uint16, torch.int64, torch.bool),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_tensors_of_any_type_are_compared(kind: torch.dtype) -> None:
    """Equal ones of eight bits had no sum in torch, and ended the proof."""
    expected = {"a": torch.ones(9).to(kind), "b": torch.ones(2, 3).to(kind)}
    right = {name: each.clone() for name, each in expected.items()}
    comparison = Comparison()
    comparison.add("buffers", right, expected, {}, "x")
    assert not comparison.failures
    assert comparison.deviations == {"buffers": 0.0}
    wrong = {"a": expected["a"].clone(), "b": torch.zeros(2, 3).to(kind)}
    comparison.add("buffers", wrong, expected, {"b": 0.5}, "x")
    assert comparison.failures == ["buffers of x: b deviates by 1"]


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_on_both_sides_fails(kind: torch.dtype, value: float) -> None:
    both = {"sound": torch.ones(3, dtype=kind), "wrong": torch.full((3,), value, dtype=kind)}
    comparison = Comparison()
    comparison.add("weights", both, both, dict.fromkeys(both, 1e9), "x")
    assert len(comparison.failures) == 1
    assert comparison.failures[0].startswith("weights of x: wrong deviates by")
    assert comparison.deviations == {"weights": math.inf}


def test_equal_elements_whose_sum_is_too_large_for_their_type_pass() -> None:
    large = {"a": torch.full((9,), 60_000.0, dtype=torch.float16)}
    comparison = Comparison()
    comparison.add("weights", large, large, {}, "x")
    assert not comparison.failures
