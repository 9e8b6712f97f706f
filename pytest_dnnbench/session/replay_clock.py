"""A clock that replays durations measured on ranks, so that pytest-benchmark computes and stores
its statistics."""

from collections.abc import Generator, Iterable

import pytest

from pytest_dnnbench.counted import counted, verb
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session import state
from pytest_dnnbench.session.benchmark_file import excuse


class ReplayClock:
    """The timer of a case's `benchmark` fixture: stands still but for what is replayed.

    Starting from zero for every round keeps the stored samples equal to the measured ones, bit for
    bit.
    """

    __name__ = "dnnbench"

    def __init__(self) -> None:
        self._now: float | None = None

    def __call__(self) -> float:
        if self._now is None:
            raise UsageError(
                "the `benchmark` fixture of a case runs on replayed time: call"
                " dnnbench.measure(...), or take `dnnbench` out of the test's arguments to time a"
                " function yourself"
            )
        return self._now

    def replay(self, benchmark: object, samples: Iterable[float]) -> None:
        """Feeds the samples, in seconds, to pytest-benchmark's fixture, one round each."""
        durations = list(samples)
        remaining = iter(durations)

        def advance() -> None:
            assert self._now is not None
            self._now += next(remaining, 0.0)

        benchmark.pedantic(  # type: ignore[attr-defined] # pytest-benchmark ships no types
            advance, setup=self._reset, rounds=len(durations), iterations=1, warmup_rounds=0
        )
        self._now = None

    def _reset(self) -> None:
        self._now = 0.0


class ReplayClocks:
    """Gives every case a replay clock as pytest-benchmark's timer, keeping the author's
    settings."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Lets a case that failed before it measured anything fail once, not twice; and one that is
        interrupted, whose call has no report, not at all."""
        report = yield  # pytest-benchmark's own wrapper, inside ours, sets the same attribute
        failed = call.excinfo is not None
        if state.is_case(item) and (failed if call.when == "call" else call.when == "setup"):
            benchmark = item.funcargs.get("benchmark")  # type: ignore[attr-defined] # a test function's
            if benchmark is not None:  # absent where the set-up failed before it
                excuse(benchmark)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Adds the mark `benchmark(timer=...)`. pytest-benchmark reads only the closest mark, so
        the author's own is repeated in it. Without pytest-benchmark nobody knows the mark."""
        cases = filter(state.is_case, items) if config.pluginmanager.hasplugin("benchmark") else ()
        for item in cases:
            mark = item.get_closest_marker("benchmark")
            settings = {**(mark.kwargs if mark else {}), "timer": ReplayClock()}
            item.add_marker(pytest.mark.benchmark(**settings), append=False)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuses cases, those that are left after deselection, where nobody could record them."""
        cases = sum(map(state.is_case, session.items))
        if cases and not session.config.pluginmanager.hasplugin("benchmark"):
            raise pytest.UsageError(
                f"{counted(cases, 'case')} {verb(cases, 'needs', 'need')} pytest-benchmark, which"
                " -p no:benchmark turns off: leave that out, or deselect what requests `dnnbench`"
            )


def clock_of(item: pytest.Item) -> ReplayClock:
    """The clock that a case was given."""
    mark = item.get_closest_marker("benchmark")
    clock = mark.kwargs["timer"] if mark else None
    assert isinstance(clock, ReplayClock)
    return clock
