"""The breakdown of a case, from the profiles of its launches."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from pytest_dnnbench.messages import StepProfile
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.profile_entry import (
    BreakdownEntry,
    OperatorEntry,
    ProfiledRank,
)
from pytest_dnnbench.step_parts import PARTS, Part

MOST_OPERATORS = 40
"""Operators kept of a case: a baseline holds them for a later "why"."""


def breakdown_of(launches: Sequence[Launch], fewest: int = 1) -> BreakdownEntry | None:
    """What the steps of these launches went into; None where none was profiled on every rank.

    Launches that were disturbed count only where there are fewer than `fewest` others.
    """
    profiled = [launch for launch in launches if all(each.profile for each in launch.reports)]
    counted = [each for each in profiled if each.conditions.disturbed is None]
    if len(counted) < fewest:
        counted = profiled
    if not counted:
        return None
    profiles = [[each.profile for each in launch.reports if each.profile] for launch in counted]
    every = [rank for ranks in profiles for rank in ranks]
    seconds = {part: _job(profiles, part) for part in PARTS}
    whole = sum(seconds.values())
    return BreakdownEntry(
        seconds={part: rounded(value) for part, value in seconds.items()},
        shares={part: rounded(value / whole) for part, value in seconds.items()},
        slowdown=rounded(statistics.median(map(_slowdown, counted))),
        parts_over_step=rounded(
            max(
                (sum(each.parts_s.values()) / each.step_s for each in every),
                key=lambda quotient: abs(quotient - 1),
            )
        ),
        launches=[[_rank(each) for each in ranks] for ranks in profiles],
        operators=_operators(profiles),
        left_out=len(profiled) - len(counted),
    )


def rounded(value: float) -> float:
    """To four significant digits: a profile is not more exact, and its file is smaller."""
    return float(f"{value:.4g}")


def troubles(launches: Sequence[Launch]) -> list[str]:
    """Why traces of these launches are not written."""
    return [
        each.profile.trouble
        for launch in launches
        for each in launch.reports
        if each.profile and each.profile.trouble
    ]


def _job(profiles: Sequence[Sequence[StepProfile]], part: Part) -> float:
    return statistics.median(
        statistics.fmean(rank.parts_s.get(part, 0.0) for rank in ranks) for ranks in profiles
    )


def _slowdown(launch: Launch) -> float:
    profiled_s = statistics.fmean(each.profile.step_s for each in launch.reports if each.profile)
    return profiled_s / statistics.fmean(launch.step_time_s)


def _rank(profile: StepProfile) -> ProfiledRank:
    return ProfiledRank(
        steps=profile.steps,
        step_time_s=rounded(profile.step_s),
        parts_s={part: rounded(profile.parts_s.get(part, 0.0)) for part in PARTS},
        trace=PurePath(profile.trace).name,
    )


def _operators(profiles: Sequence[Sequence[StepProfile]]) -> list[OperatorEntry]:
    """The operators that take most of a step on any rank, the longest first."""
    shape = (len(profiles), len(profiles[0]))
    seconds = defaultdict[tuple[Part, str], list[list[float]]](
        lambda: [[0.0] * shape[1] for _ in range(shape[0])]
    )
    calls = defaultdict[tuple[Part, str], list[list[float]]](
        lambda: [[0.0] * shape[0] for _ in range(shape[1])]
    )
    for number, ranks in enumerate(profiles):
        for rank, profile in enumerate(ranks):
            for row in profile.operators:
                seconds[row.part, row.name][number][rank] = rounded(row.self_s)
                calls[row.part, row.name][rank][number] = rounded(row.calls)
    longest = sorted(seconds, key=lambda row: _longest(seconds[row]), reverse=True)
    return [
        OperatorEntry(
            part=part,
            name=name,
            self_s=seconds[part, name],
            calls=[statistics.median(launches) for launches in calls[part, name]],
        )
        for part, name in longest[:MOST_OPERATORS]
    ]


def _longest(self_s: Sequence[Sequence[float]]) -> float:
    medians: list[float] = [statistics.median(launches) for launches in zip(*self_s, strict=True)]
    return max(medians)
