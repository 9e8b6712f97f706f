"""What torch's runtime takes with each pass: counted on a clock of its own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place
from pytest_dnnbench.planner.synchronous import RULES, pipelines_of
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.pipeline import runtime_trial
from pytest_dnnbench.rank.pipeline.passes import Passes


def per_pass(place: Place, framework: str, options: dict[str, Any]) -> float | None:
    """The trial's result, on a clock that each pass moves by a rank's number and one."""
    now = [0.0]
    noting = Passes.noting

    def ticking(passes: Passes, stage: int, kind: Any, microbatch: int) -> Any:
        now[0] += place.rank + 1 if kind != "L" else 0.0
        return noting(passes, stage, kind, microbatch)

    # In this process, which then ends.
    vars(runtime_trial)["time"] = SimpleNamespace(thread_time=lambda: now[0])
    Passes.noting = ticking  # type: ignore[assignment, method-assign] # on purpose
    with group.membership(place):
        pipelines = pipelines_of(framework, place.world_size, options)
        return runtime_trial.seconds_of_pass(place, pipelines)


@pytest.mark.parametrize("framework", RULES)
def test_a_step_of_nothing_is_shared_out_among_its_passes(
    cpu_ranks: Callable[[int], Ranks], framework: str
) -> None:
    program = f"{__name__}:per_pass"
    assert cpu_ranks(2).launch(program, framework, {}) == [1.5] * 2, "the mean of the ranks"


def test_replicas_that_share_weights_out_are_tried_with_copies(
    cpu_ranks: Callable[[int], Ranks],
) -> None:
    options = {"stages": 2, "replicas": "fsdp"}
    assert cpu_ranks(4).launch(f"{__name__}:per_pass", "zbv", options) == [2.5] * 4
