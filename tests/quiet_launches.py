"""Profiled launches of quiet moments, for tests that plant a slowness and look for it. What else
runs on the machine only makes a step longer, so launches are added until the two quickest are
alike."""

from collections.abc import Callable

from pytest_dnnbench.results.records.measurement import Launch

ALIKE_S = 0.004
"""How far apart the steps of two launches may be: little beside what is planted, 20 ms or more."""

MOST_LAUNCHES = 15
"""On a machine that is never quiet the two quickest have to do."""


def quiet_launches(launch: Callable[[], Launch]) -> list[Launch]:
    """Two launches, the quickest of as many as it takes."""
    launches: list[Launch] = []
    for _ in range(MOST_LAUNCHES):
        launches = sorted([*launches, launch()], key=step_s)
        if len(launches) > 1 and step_s(launches[1]) - step_s(launches[0]) < ALIKE_S:
            break
    return launches[:2]


def step_s(launch: Launch) -> float:
    """The profiled step of the slowest rank."""
    profiles = [report.profile for report in launch.reports]
    return max(profile.step_s for profile in profiles if profile is not None)
