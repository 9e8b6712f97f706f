"""What an engine of another package gives otherwise than an engine is to give is one line."""

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_dnnbench.controller.checked_engine import checked_engine
from pytest_dnnbench.controller.engines import Engine
from pytest_dnnbench.errors import UsageError


class Made:
    """An engine whose methods return what it is made of, or raise it."""

    def __init__(self, nodes: Any = ("n1", "n2"), command: Any = ("env",), ended: Any = "") -> None:
        self._nodes, self._command, self._ended = nodes, command, ended

    def nodes(self) -> Any:
        """As made."""
        return _given(self._nodes)

    def command(self, node: str, program: Sequence[str]) -> Any:
        """As made."""
        return _given(self._command)

    def ended(self, status: int) -> Any:
        """As made."""
        return _given(self._ended)


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def made(**given: Any) -> Engine:
    return checked_engine("mine", lambda nodes, command: Made(**given), (), ())


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("n1", r"returned 'n1' from nodes\(\): let it return a list of texts"),
        ([1, 2], r"returned \[1, 2\] from nodes"),
        ([], r"has the nodes \[\]: let nodes\(\) return each node's name once"),
        (["n1", "n1"], "each node's name once"),
        (OSError("no licence"), r"nodes\(\) raised OSError: no licence"),
        (UsageError("outside an allocation"), "^outside an allocation$"),
    ],
)
def test_nodes_are_names(nodes: Any, message: str) -> None:
    """The text "n1" was two nodes, n and 1, and an empty list an IndexError of each test file."""
    with pytest.raises(UsageError, match=message):
        made(nodes=nodes).nodes()


def test_commands_are_words() -> None:
    assert made(command=["env", "a"]).command("n1", ["a"]) == ["env", "a"]
    for command, message in (("env a", "returned 'env a'"), (KeyError("n1"), "raised KeyError")):
        with pytest.raises(UsageError, match=f"^the engine 'mine'.*{message}"):
            made(command=command).command("n1", ["a"])


def test_the_end_of_a_node_is_told_whatever_the_engine_says_of_it() -> None:
    assert made(ended="out of memory").ended(9) == "out of memory"
    assert made(ended=None).ended(-9) == "its agent was ended by SIGKILL"
    assert made(ended=KeyError(9)).ended(3) == (
        "its agent ended with status 3 (and mine.ended raised KeyError(9))"
    )


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda nodes, command: None, "'mine' is None, without nodes, command, ended: let its"),
        (lambda: None, "'mine': its function raised TypeError: .* 0 positional arguments"),
        (lambda nodes, command: 1 / 0, "'mine': its function raised ZeroDivisionError"),
    ],
)
def test_what_is_no_engine_starts_nothing(factory: Any, message: str) -> None:
    """None was taken for a session that stays on this machine, and measured there."""
    with pytest.raises(UsageError, match=message):
        checked_engine("mine", factory, ("n1",), ())
