"""Simulated sessions of a machine whose noise is given: tests and detector.py try the detector on
them.

A value is the relative throughput of one launch, 1.0 without noise. On its logarithm add up

    launch     independent, of the case's own standard deviation; one case of Student's
               distribution with 3 degrees of freedom, one in which a launch in ten is 30% slower
    session    independent per case and session: 0.3 of the case's launch noise
    drift      shared by all cases: the machine's level walks from session to session and slopes
               within one, it may swing to and fro or differ from session to session, and it may be
               slower for a whole session; the yardstick has the same drift, with noise of its own
    restless   a few cases whose sessions differ more than the others', normally or by two modes
    outliers   a share of all launches that is 20% slower

and on its steps, independent noise of the case's launches.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SLOW_LAUNCH = -np.log(1.3)
OUTLIER = np.log(0.8)
SWING_SESSIONS = 10


@dataclass(frozen=True)
class World:
    """A machine and its cases: relative standard deviations. In a share `slow_days` of sessions the
    machine is slower by `slow_machine`; the cases feel `felt` times what the yardstick does.
    `machine_sd` is how much sessions differ for all cases together, `swing` the amplitude of a
    level that returns after SWING_SESSIONS. The sessions of the first `restless_cases` differ by
    `restless_sd`, and half of them are slower by `mode`."""

    launch_sd: Array
    session_share: float = 0.3
    walk_sd: float = 0.003
    slope_sd: float = 0.005
    odd_cases: bool = True
    yardstick_sd: float = 0.025
    slow_days: float = 0.0
    slow_machine: float = 0.0
    felt: float = 1.0
    restless_cases: int = 0
    restless_sd: float = 0.0
    mode: float = 0.0
    machine_sd: float = 0.0
    swing: float = 0.0
    outliers: float = 0.0

    @property
    def cases(self) -> int:
        return len(self.launch_sd)

    def sessions(
        self, rng: np.random.Generator, sessions: int, launches: int
    ) -> tuple[Array, Array]:
        """Values of sessions that follow each other, sessions x cases x launches, and of the
        yardstick beside them."""
        logs = rng.standard_normal((sessions, self.cases, launches))
        if self.odd_cases:
            logs[:, -1] = rng.standard_t(3, (sessions, launches)) / np.sqrt(3)
        logs *= self.launch_sd[:, None]
        if self.odd_cases:
            logs[:, -2] += SLOW_LAUNCH * (rng.random((sessions, launches)) < 0.1)
        logs += (
            rng.standard_normal((sessions, self.cases, 1))
            * self.launch_sd[:, None]
            * self.session_share
        )
        logs += self._restlessness(rng, sessions)
        if self.outliers:
            logs += OUTLIER * (rng.random(logs.shape) < self.outliers)
        drift = np.cumsum(rng.standard_normal(sessions) * self.walk_sd)[:, None, None]
        drift = drift + rng.standard_normal((sessions, 1, 1)) * self.slope_sd * np.linspace(
            -0.5, 0.5, launches
        )
        drift = drift - self.slow_machine * (rng.random((sessions, 1, 1)) < self.slow_days)
        drift = drift + self._machine_state(rng, sessions)
        yardsticks = rng.standard_normal(logs.shape) * self.yardstick_sd - drift
        return np.exp(logs + self.felt * drift), np.exp(yardsticks)

    def _restlessness(self, rng: np.random.Generator, sessions: int) -> Array:
        """What the sessions of a few cases differ by: sessions x cases x 1."""
        levels = np.zeros((sessions, self.cases, 1))
        if count := self.restless_cases:
            own = rng.standard_normal((sessions, count, 1)) * self.restless_sd
            levels[:, :count] = own - self.mode * (rng.random((sessions, count, 1)) < 0.5)
        return levels

    def _machine_state(self, rng: np.random.Generator, sessions: int) -> Array:
        """What sessions differ by for all cases together: sessions x 1 x 1."""
        state = np.zeros((sessions, 1, 1))
        if self.machine_sd:
            state += rng.standard_normal((sessions, 1, 1)) * self.machine_sd
        if self.swing:
            turns = np.arange(sessions) / SWING_SESSIONS + rng.random()
            state += self.swing * np.sin(2 * np.pi * turns)[:, None, None]
        return state

    def steps(self, rng: np.random.Generator, values: Array, steps: int) -> Array:
        """Step times of each of these launches: sessions x cases x (launches x steps)."""
        noise = rng.standard_normal((*values.shape, steps)) * self.launch_sd[:, None, None]
        times = np.exp(noise) / values[..., None]
        return times.reshape(*values.shape[:-1], -1)


def suite(cases: int = 36) -> World:
    """Cases of 1% to 11% of launch noise, half of them under 2%: pytorch/benchmark's ranges taken
    for deviations."""
    ranks = (np.arange(cases) + 0.5) / cases
    return World(np.clip(0.018 * np.exp(1.09 * _normal_quantile(ranks)), 0.01, 0.114))


def rough(cases: int = 36) -> World:
    """The suite on a machine that it does not have to itself: its sessions differ as much as its
    launches."""
    return replace(suite(cases), session_share=1.0, walk_sd=0.01, slope_sd=0.01)


def shared(cases: int = 36) -> World:
    """The suite on a machine that is a third slower in one session of ten, and on which cases lose
    half of it more."""
    return replace(suite(cases), slow_days=0.1, slow_machine=float(np.log(1.33)), felt=1.5)


def quiet(launch_sd: float = 0.01, cases: int = 36) -> World:
    """Every case with the same launch noise and none of its own between sessions."""
    return World(
        np.full(cases, launch_sd), session_share=0.0, walk_sd=0.0, slope_sd=0.0, odd_cases=False
    )


def restless(cases: int = 36, sd: float = 0.03, mode: float = 0.0) -> World:
    """The quiet machine, but for one case in twelve, at least one: its sessions differ by `sd`, or
    half of them are slower by `mode`."""
    few = max(1, round(cases / 12))
    return replace(quiet(cases=cases), restless_cases=few, restless_sd=sd, mode=mode)


def _normal_quantile(ranks: Array) -> Array:
    from scipy.special import ndtri

    return np.asarray(ndtri(ranks), dtype=np.float64)
