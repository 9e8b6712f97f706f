"""PipeDream's option that lets workers stay idle, for comparison with its recorded answers.

The package does not offer it: its default cost model leaves workers idle wherever that is better.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

from pytest_dnnbench.planner.pipedream import cost_model
from pytest_dnnbench.planner.pipelines import best_times, stages_of


@contextmanager
def workers_may_idle() -> Iterator[None]:
    """Lets the original's search, for the length of a `with`, take plans on fewer workers than
    there are: the dynamic program has that as an argument."""

    def times(*arguments: object, fewer: bool) -> object:
        return partial(best_times, fewer=True)(*arguments)  # type: ignore[arg-type] # passed on

    def stages(*arguments: object, fewer: bool) -> object:
        return partial(stages_of, fewer=True)(*arguments)  # type: ignore[arg-type] # passed on

    with (
        mock.patch.object(cost_model, "best_times", times),
        mock.patch.object(cost_model, "stages_of", stages),
    ):
        yield
