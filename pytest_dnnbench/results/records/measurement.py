"""The launches of a measured case: from what the ranks report to one figure per launch and metric.
Raw samples are kept. Here too: the checks of times and metrics; what the ranks have to agree upon:
rank_agreement.py."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pytest_dnnbench.case import Case
from pytest_dnnbench.device_peaks import peak_flops
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.function_case import MeasuredCase
from pytest_dnnbench.messages import PredictedStep, RankReport
from pytest_dnnbench.metrics import ALGORITHM_BANDWIDTH, METRICS, MFU, Metric
from pytest_dnnbench.results.records.schema import Conditions, CorrectnessEntry, Environment
from pytest_dnnbench.run_length import Length

CONSISTENT = 0.02
"""How far the throughput of a launch and the sum of its step times may be apart, as a fraction.

The windows of our own ranks close at their last step, so that both agree to the last digits. The
rest is room for a launch that a journal or another package's code has written."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a case: its ranks' reports, in rank order, and its conditions."""

    reports: tuple[RankReport, ...]
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def throughput(self) -> float:
        """Samples of all timed steps / seconds of the job's window.

        The job's window is that of the ranks that complete samples: all ranks of a data-parallel
        job, the last stage of a pipeline. An early stage's window says nothing: it holds other
        stages' work on other minibatches.

            ranks that step together    the window of the slowest of them
            ranks that take turns       from the completion of the last warm-up minibatch to that
                                        of the last timed one, whichever ranks complete them
        """
        return sum(self._job.samples) / self._job.window_s

    @property
    def window(self) -> tuple[float, float]:
        """Begin and end of the job's window, by the monotonic clock of its machine."""
        return self._job.start_s, self._job.start_s + self._job.window_s

    @property
    def step_time_s(self) -> list[float]:
        """Seconds per step, within the same window and by the same ranks: their sum is the window.
        Where an update averages several steps, replicas complete these at about the same time, so
        each of them counts as its share of the update."""
        job = self._job
        update = max(1, self._finishing[0].samples_per_update // max(1, job.samples[0]))
        return _shared(job.times_s, update)

    @property
    def _finishing(self) -> list[RankReport]:
        """The reports of the ranks that complete samples."""
        return [report for report in self.reports if sum(report.step_samples)]

    @property
    def _job(self) -> "_JobWindow":
        ranks = self._finishing
        if len({report.step_index for report in ranks}) == 1:
            slowest = max(ranks, key=_window_s)
            # What all ranks count, they did together.
            count = max if slowest.shared_samples else sum
            samples = [
                count(parts)
                for parts in zip(*(report.step_samples for report in ranks), strict=True)
            ]
            start_s = slowest.window_start_s
            return _JobWindow(samples, start_s, _window_s(slowest), _durations(slowest))
        # Each rank's window opens when its last warm-up minibatch is complete, and the job's when
        # the last of these is. A rank that was early may have timed a minibatch by then.
        start_s = max(report.window_start_s for report in ranks)
        completions = sorted(
            (end_s, samples)
            for report in ranks
            for end_s, samples in zip(report.step_end_s, report.step_samples, strict=True)
            if end_s > start_s
        )
        ends_s = [end_s for end_s, _ in completions]
        times_s = [end_s - before_s for before_s, end_s in pairwise([start_s, *ends_s])]
        samples = [count for _, count in completions]
        return _JobWindow(samples, start_s, ends_s[-1] - start_s, times_s)

    @property
    def own_work_s(self) -> list[list[float]]:
        """For each rank, three quartiles over the steps: the seconds of a step for which the rank
        needs no other. Empty unless several ranks ran and all of them report it."""
        ranks = [report.own_work_s for report in self.reports]
        return [_quartiles(steps) for steps in ranks] if len(ranks) > 1 and all(ranks) else []

    def figures(self, metric: Metric) -> list[float]:
        """The metric's figure of the job, or of each rank that reports it; empty where this launch
        has none."""
        if metric.over_ranks != "job":
            name = metric.name
            return [report.metrics[name] for report in self.reports if name in report.metrics]
        figure = self._job_figure(metric.name)
        return [] if figure is None else [figure]

    def _job_figure(self, metric: str) -> float | None:
        """What is measured of the job as a whole. Speed-up is not: it takes another case."""
        match metric:
            case "throughput":
                return self.throughput
            case "step_time_s":
                return statistics.median(self.step_time_s)
            case "algorithm_bandwidth" | "bus_bandwidth":
                return self._bandwidth(metric)
            case "energy_per_sample_j":
                return self._energy_per_sample_j
            case "yardstick_s":
                return self.conditions.yardstick_s
            case "loss":
                return self.loss[-1] if self.loss else None
            case "validation_accuracy":
                return self.validation_accuracy
            case _:
                return None

    @property
    def _energy_per_sample_j(self) -> float | None:
        """Of all GPUs of the launch together or, on CPU ranks, of the machine's packages; None
        where one of them does not count its energy, or on several nodes, of which rank 0 reads its
        own only."""
        if self.conditions.gpu_uuids:
            windows = self.conditions.gpu_window
            energies = [
                windows[uuid].energy_j if uuid in windows else None
                for uuid in self.conditions.gpu_uuids
            ]
        else:
            several = len(self.conditions.nodes) > 1
            energies = [None if several else self.reports[0].cpu_energy_j]
        counted = [energy_j for energy_j in energies if energy_j is not None]
        complete = len(counted) == len(energies)
        return math.fsum(counted) / sum(self._job.samples) if complete else None

    def _bandwidth(self, metric: str) -> float | None:
        """Of a collective, from the window of the slowest rank; a bus bandwidth takes a factor
        above zero, which a lone rank does not have."""
        factor = self.reports[0].bus_factor
        if factor is None:
            return None
        if metric == ALGORITHM_BANDWIDTH:
            return self.throughput
        return self.throughput * factor or None

    @property
    def loss(self) -> list[float]:
        """The loss of each step of the run, warm-up included: the mean over the ranks that compute
        one."""
        ranks = [report.loss for report in self.reports if report.loss]
        return [statistics.fmean(losses) for losses in zip(*ranks, strict=False)]

    @property
    def validation_accuracy(self) -> float | None:
        """Correct / all samples of the validation set; None without one."""
        counts = [report.validation for report in self.reports if report.validation is not None]
        if not counts:
            return None
        return sum(correct for correct, _ in counts) / sum(samples for _, samples in counts)


@dataclass(frozen=True, slots=True)
class _JobWindow:
    """The timed window of a whole job, with the samples and the time of each step in it."""

    samples: list[int]
    start_s: float
    window_s: float
    times_s: list[float]


@dataclass(frozen=True, slots=True)
class Figures:
    """One metric of a case: a figure per launch, and each rank's median over the launches where
    ranks have figures of their own."""

    per_launch: list[float]
    per_rank: list[float]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured case: its launches, what proved its step right, and where it ran."""

    case: MeasuredCase
    launches: tuple[Launch, ...]
    correctness: CorrectnessEntry
    environment: Environment
    oversubscribed: bool
    steps: Length
    warmup: Length
    parallel: bool = False
    prediction: PredictedStep | None = None

    def values(self) -> dict[str, Figures]:
        """The metrics that every launch has, by name, in the order of their rows."""
        values = {}
        for metric in METRICS.values():
            launches = [self._figures(metric, launch) for launch in self.launches]
            if all(launches) and self.case.has_phase(metric.phases):
                values[metric.name] = Figures(
                    per_launch=[float(metric.over_all(ranks)) for ranks in launches],
                    per_rank=self._per_rank(metric, launches),
                )
        return values

    def _figures(self, metric: Metric, launch: Launch) -> list[float]:
        """As Launch.figures; MFU takes what the proof knows too."""
        if metric.name != MFU:
            return launch.figures(metric)
        mfu = self._mfu(launch)
        return [] if mfu is None else [mfu]

    def _mfu(self, launch: Launch) -> float | None:
        """The operations that the model needs for what it did in a second, over what the launch's
        GPUs can do at most; None where either is not known."""
        flops = self.correctness.about.get("flops_per_sample")
        names = str(self.environment.must_match.get("gpu") or "")
        if not isinstance(self.case, Case) or not isinstance(flops, float) or not names:
            return None
        peaks = [peak_flops(name, self.case.precision) for name in names.split(", ")]
        stated = [peak for peak in peaks if peak is not None]
        if len(stated) < len(peaks) or len(peaks) != self.case.gpus:
            return None
        return launch.throughput * flops / math.fsum(stated)

    def _per_rank(self, metric: Metric, launches: list[list[float]]) -> list[float]:
        """Empty also where only some ranks report the metric: nobody could say which."""
        if metric.over_ranks == "job" or {len(ranks) for ranks in launches} != {self.case.gpus}:
            return []
        return [statistics.median(figures) for figures in zip(*launches, strict=True)]


def check_times(case: MeasuredCase, launch: Launch) -> None:
    """Raises WrongResult when the times of a launch cannot be: when one is not finite, when time
    stands still or goes backwards, or when throughput and step times contradict each other."""
    for report in launch.reports:
        if broken := _broken_time(report):
            raise WrongResult(
                f"{case.label}: the clock of rank {report.rank} read {broken}: its times mean"
                " nothing; look for code that replaces a clock on the ranks"
            )
    if any(report.shared_samples for report in launch.reports):
        _check_shared(case, launch.reports)
    if not launch._finishing:
        raise WrongResult(
            f"{case.label}: no rank completed a sample in its timed steps: let one rank's steps"
            " count the samples (Step.samples)"
        )
    job_s = sum(launch._job.samples) / launch.throughput
    steps_s = math.fsum(launch.step_time_s)
    if not abs(job_s - steps_s) <= CONSISTENT * job_s:
        raise WrongResult(
            f"{case.label}: the launch contradicts itself: its throughput of"
            f" {launch.throughput:.6g} samples/s means {job_s:.6g} s for its timed steps, and their"
            f" step times add up to {steps_s:.6g} s; they may differ by {CONSISTENT:.0%}"
        )


def _check_shared(case: MeasuredCase, reports: Sequence[RankReport]) -> None:
    first = reports[0]
    for report in reports:
        if (report.sample, report.step_samples) != (first.sample, first.step_samples):
            raise WrongResult(
                f"{case.label}: rank {report.rank} counts other work than rank 0"
                f" ({_counted(report)}, {_counted(first)}): a collective has the same size on every"
                " rank"
            )


def _counted(report: RankReport) -> str:
    return f"{report.step_samples[:1]} {report.sample}"


def check_metrics(case: MeasuredCase, reports: Sequence[RankReport]) -> None:
    """Raises UsageError when a rank reports a metric that has no row, or one that only the job as a
    whole has; WrongResult when a figure is not finite. To be called after the first launch."""
    for report in reports:
        for name, figure in report.metrics.items():
            reported = f"{case.label}: rank {report.rank} reports the metric {name!r}"
            metric = METRICS.get(name)
            if metric is None:
                raise UsageError(
                    f"{reported}, which is not defined: return its row,"
                    f" pytest_dnnbench.metrics.Metric({name!r}, unit, better, over_ranks=...), from"
                    " the hook pytest_dnnbench_metrics"
                )
            if metric.over_ranks == "job":
                raise UsageError(
                    f"{reported}, whose row says that it is measured of the job as a whole: give"
                    " the row over_ranks='max', 'mean' or 'sum', or report another name"
                )
            if not math.isfinite(figure):
                raise WrongResult(f"{reported} as {figure!r}: a figure must be finite")


def _broken_time(report: RankReport) -> str | None:
    """The first two readings of a rank's clock between which time does not go on, in words."""
    times_s = (report.window_start_s, *report.step_end_s, report.window_end_s)
    steps = len(report.step_end_s)
    for number, (before_s, after_s) in enumerate(pairwise(times_s), 1):
        # A window may close at the very end of its last step.
        is_close = 0 < steps < number
        goes_on = before_s <= after_s if is_close else before_s < after_s
        if not (goes_on and math.isfinite(before_s) and math.isfinite(after_s)):
            what = f"step {number - 1}" if number <= steps else "the close"
            return f"{before_s!r} s before and {after_s!r} s after {what} of its timed window"
    return None


def _window_s(report: RankReport) -> float:
    return report.window_end_s - report.window_start_s


def check_figures(case: MeasuredCase, launch: Launch) -> None:
    """Raises WrongResult for a figure of the job that no measurement can give, as of a clock that
    stood still, ran backwards or gave no number. One such figure would cost the whole session its
    file: JSON has no NaN."""
    for metric in METRICS.values():
        for value in launch.figures(metric):
            if impossible := metric.impossible(value):
                raise WrongResult(
                    f"{case.label}: {impossible}: the clock that the ranks read, or what the model"
                    " computes, is wrong; look for code that replaces a clock on the ranks"
                )


def _durations(report: RankReport) -> list[float]:
    befores = (report.window_start_s, *report.step_end_s)
    return [end - before for before, end in zip(befores, report.step_end_s, strict=False)]


def _quartiles(values: Sequence[float]) -> list[float]:
    return (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )


def _shared(times: list[float], together: int) -> list[float]:
    """The same times, each run of `together` of them replaced by its mean."""
    runs = [times[start : start + together] for start in range(0, len(times), together)]
    return [statistics.fmean(run) for run in runs for _ in run]
