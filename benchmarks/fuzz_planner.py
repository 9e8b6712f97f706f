"""Damaged inputs, by the million: each gives an answer or one clear error, never a traceback.

    python -m benchmarks.fuzz_planner 1000000

An input is a sound one with a few seeded changes: bytes and numbers replaced, pieces doubled,
removed and exchanged, brackets nested. The suite runs a few hundred of each kind.
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from pytest_dnnbench.errors import PlanError, ProfileError
from pytest_dnnbench.planner.layout import layout_of
from pytest_dnnbench.planner.pipedream.planning import original_plan
from pytest_dnnbench.planner.pipedream.text import format_text, parse_text
from pytest_dnnbench.planner.plan import parse_plan
from pytest_dnnbench.planner.predict import even_plan, plan_for
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.profile_file import format_json, parse_json
from pytest_dnnbench.planner.table import format_plan

ODD = (
    *("0", "-1", "1e999", "-0.0", "1e-320", "1e308", "NaN", "Infinity", "null", "true", '""', "{}"),
    *("[]", "9" * 5000, "[" * 5000, '"\\u001b[31m"', '"\\ud800"', "²", "\x00", "\x85", "\u2028"),
    *("--", " -- ", "\t", "\n", "node1", "node0", "Input", "__getitem__", "1e18", "4.9e-324"),
)
"""Pieces of text that have broken readers."""


def damaged(text: str, rng: random.Random) -> str:
    """The text after one to four changes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 1, 2, 5, 20, 200)))
        new = rng.choice(
            (rng.choice(ODD), text[start:end] * 2, "", chr(rng.randrange(256)), text[:end])
        )
        if rng.random() < 0.5:  # a whole number or word
            while end < len(text) and (text[end].isalnum() or text[end] in "._-+"):
                end += 1
        text = text[:start] + new + text[end:]
    return text[:100_000]


def planner_inputs(rng: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """Damaged profiles, plans and texts of options, without end: what is damaged, and the call that
    reads it and plans from it."""
    profile = _profile(rng)
    json_text, text = format_json(profile), format_text(Profile(profile.operators, profile.edges))
    plan_text = plan_for(profile, (4,), (1e9,)).to_json()
    while True:
        kind = rng.choice(("profile as JSON", "profile as text", "plan", "stages"))
        if kind == "profile as JSON":
            content = damaged(json_text, rng)
            yield kind, lambda c=content: _planned(parse_json(c), rng)  # type: ignore[misc] # c: str
        elif kind == "profile as text":
            content = damaged(text, rng)
            yield kind, lambda c=content: _planned(parse_text(c), rng)  # type: ignore[misc] # as above
        elif kind == "plan":
            content = damaged(plan_text, rng)
            yield kind, lambda c=content: format_plan(parse_plan(c))  # type: ignore[misc] # as above
        else:
            content = damaged("2-1", rng)
            yield kind, lambda c=content: layout_of(c, 3)  # type: ignore[misc] # as above


def _profile(rng: random.Random) -> Profile:
    operators = [
        Operator(f"node{n}", "Linear(8, 8)", rng.random() / 100, rng.random() / 100, 4096.0, 1e6)
        for n in range(6)
    ]
    edges = [(f"node{n}", f"node{n + 1}") for n in range(5)] + [("node1", "node4")]
    return Profile(tuple(operators), tuple(edges), {"whole_s": 0.1}, (("node2", "node3"),))


def _planned(profile: Profile, rng: random.Random) -> None:
    """Plans a profile in every way, with limits that are odd as well."""
    limits = (1e9, 1e-320, 1.0, float("inf"), float("nan"), -1.0, 1e300, 1e-3)
    bandwidth, memory = rng.choice(limits), rng.choice((None, *limits))
    for planning in (plan_for, original_plan):
        with suppress(PlanError, ProfileError):
            plan = planning(profile, (2, 2), (bandwidth, bandwidth), memory_bytes=memory)
            format_plan(parse_plan(plan.to_json()))
    format_plan(even_plan(profile, (2, 1), bandwidth=bandwidth, memory_bytes=memory))


def survivors(count: int, seed: int = 0) -> tuple[int, int]:
    """Reads `count` inputs. Returns how many were answered and how many were refused; any other
    exception than the project's own passes through, with the input's number in a note."""
    answered = refused = 0
    for number, (what, call) in zip(
        range(count), planner_inputs(random.Random(seed)), strict=False
    ):
        try:
            call()
            answered += 1
        except (PlanError, ProfileError) as error:
            if not str(error).isprintable():
                raise ValueError(f"input {number} ({what}), seed {seed}: {error!r}") from error
            refused += 1
        except Exception as error:
            error.add_note(f"input {number} ({what}), seed {seed}")
            raise
    return answered, refused


if __name__ == "__main__":
    print("answered {}, refused {}".format(*survivors(int(sys.argv[1]))))
