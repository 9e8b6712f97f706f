"""Numbers with their nouns, as messages write them."""

import pytest

from pytest_dnnbench.counted import counted, verb


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "case", "0 cases"),
        (1, "case", "1 case"),
        (2, "launch", "2 launches"),
        (1, "launch", "1 launch"),
        (12000, "byte", "12,000 bytes"),
        (2, "history", "2 histories"),
        (2, "day", "2 days"),
        (3, "GPU", "3 GPUs"),
        (2, "CPU rank", "2 CPU ranks"),
        (2, "index", "2 indexes"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def test_a_verb_agrees_with_its_number() -> None:
    assert [verb(number, "is", "are") for number in (0, 1, 2)] == ["are", "is", "are"]
