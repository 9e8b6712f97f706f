"""RankLauncher: the launcher of a case that starts real ranks. Names the functions that they run;
the controller itself never imports them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

# By name: a test module of the user's may replace the clock in `time`.
from time import monotonic
from typing import Any

import msgspec

from pytest_dnnbench.controller.job import Rendezvous
from pytest_dnnbench.controller.node_placement import gpu_windows, with_clocks, with_skews
from pytest_dnnbench.controller.rank_clock import check_clocks, on_ours, phases_of
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Correctness, PredictedStep, RankReport, TimedRequest
from pytest_dnnbench.results.records.measurement import Launch, check_times

PROVE = "pytest_dnnbench.rank.timed_run:prove"
MEASURE = "pytest_dnnbench.rank.timed_run:measure"
MEASURE_MACHINE = "pytest_dnnbench.rank.yardstick:measure"
MEASURE_GPU = "pytest_dnnbench.rank.gpu_yardstick:measure"


@dataclass(frozen=True, slots=True)
class RankLauncher:
    """Implements case_run.Launcher.

    `planning`, `prediction` and `rendezvous` are those of the case's framework
    (catalog.FrameworkSpec); `machine_ranks` is the one rank, of each node, that measures the
    machine's own speed; None where it is not measured.
    """

    ranks: Ranks
    planning: str | None = None
    rendezvous: Rendezvous | None = None
    machine_ranks: Ranks | None = None
    prediction: str | None = None

    def plan(self, request: TimedRequest) -> Any:
        """The plan of rank 0, as plain data; None for a framework without planning."""
        if self.planning is None:
            return None
        return self.ranks.launch(self.planning, request, returns=Any)[0]

    def predict(self, request: TimedRequest) -> PredictedStep | None:
        """Rank 0's prediction; of a framework without one, that it has none."""
        if self.prediction is None:
            return PredictedStep(refused="its framework has no prediction")
        predicted: list[PredictedStep | None] = self.ranks.launch(
            self.prediction,
            request,
            rendezvous=self.rendezvous,
            returns=PredictedStep | None,
        )
        return predicted[0]

    def prove(self, request: TimedRequest) -> Sequence[Correctness]:
        """Each rank's check of the step."""
        return self.ranks.launch(PROVE, request, rendezvous=self.rendezvous, returns=Correctness)

    def measure(self, request: TimedRequest) -> Launch:
        """The reports of the ranks, and where they ran. Raises WrongResult when a rank's clock
        cannot be right."""
        answers: list[RankReport] = self.ranks.launch(
            MEASURE, request, rendezvous=self.rendezvous, returns=RankReport
        )
        clock = self.ranks.clock
        reports = on_ours(answers, clock.offsets)
        check_clocks(request.case, reports, clock)
        clocks = [(offset.offset_s, offset.uncertainty_s) for offset in clock.offsets]
        placement = self.ranks.placement
        conditions = msgspec.structs.replace(
            with_clocks(placement.conditions, clocks),
            phases_s=phases_of(reports, clock, monotonic()),
        )
        launch = Launch(tuple(reports), conditions)
        launch = replace(launch, conditions=with_skews(conditions, launch.own_work_s))
        if not any(samples.uuids for samples in placement.gpu_samples):
            return launch
        check_times(request.case, launch)  # before its window is relied on
        gpu_window = gpu_windows(placement, launch.window, clock.offsets)
        conditions = msgspec.structs.replace(launch.conditions, gpu_window=gpu_window)
        return replace(launch, conditions=conditions)

    def yardstick(self) -> float | None:
        """Seconds of the yardstick of the machine's cores (rank/yardstick.py), of several nodes the
        slowest one's."""
        if self.machine_ranks is None:
            return None
        return float(max(self.machine_ranks.launch(MEASURE_MACHINE, returns=float)))
