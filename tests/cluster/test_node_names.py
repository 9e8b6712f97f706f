"""The names of nodes in --dnn-nodes."""

import pytest

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session.node_names import names_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", "n1"),
        ("n1, n2", "n1 n2"),
        ("n[1-3]", "n1 n2 n3"),
        ("n[08-11,3]", "n08 n09 n10 n11 n3"),
        ("r[1-2]-n[1,3],login", "r1-n1 r1-n3 r2-n1 r2-n3 login"),
        ("gpu[1-2].site.example", "gpu1.site.example gpu2.site.example"),
    ],
)
def test_names_and_ranges_are_read_as_slurm_writes_them(text: str, names: str) -> None:
    assert names_of(text) == tuple(names.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no name of a node"),
        ("n1,,n2", "'' is no name of a node"),
        ("-o", "'-o' is no name of a node"),
        ("n1 n2", "'n1 n2' is no name of a node"),
        ("n[1-2", r"'n\[1-2' is no name of a node"),
        ("n1]", r"'n1\]' is no name of a node"),
        ("n[[1]]", "is no name of a node"),
        ("n[3-1]", r"\[3-1\] is no range of numbers, as in n\[1-4,7\]"),
        ("n[]", r"\[\] is no range"),
        ("n[a-c]", r"\[a-c\] is no range"),
        ("n[1-2-3]", r"\[1-2-3\] is no range"),
        ("n[²]", r"\[²\] is no range"),
        ("n[0-999999999]", "is no range"),
        ("n[1-9999][1-9999][1-9999]", "more than 10,000 nodes"),
        ("n1,n[1-2]", "it names 'n1' twice"),
        ("n\x07", "no name"),
    ],
)
def test_what_is_no_name_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names_of(text)
