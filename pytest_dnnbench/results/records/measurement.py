"""The launches of a measured case: from what the ranks report to one figure per launch and metric.
Raw samples are kept. Here too: the checks of what the ranks report."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import Correctness, RankReport
from pytest_dnnbench.metrics import METRICS, Metric
from pytest_dnnbench.results.records.schema import Conditions, CorrectnessEntry, Environment


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a case: its ranks' reports, in rank order, and its conditions."""

    reports: tuple[RankReport, ...]
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def throughput(self) -> float:
        """Samples of all complete steps of all ranks / wall time of the slowest rank."""
        samples = sum(sum(report.step_samples) for report in self.reports)
        return samples / max(report.window_end_s - report.window_start_s for report in self.reports)

    @property
    def step_time_s(self) -> list[float]:
        """Seconds per step. Ranks that step together: the slowest of them. Ranks that take turns (a
        pipeline's last stage): the time between completions. Where an update averages several
        steps, replicas complete these at about the same time, so each of them counts as its share
        of the update."""
        done = [report for report in self.reports if sum(report.step_samples)]
        if len({report.step_index for report in done}) == 1:
            samples = sum(report.step_samples[0] for report in done)
            times = [
                max(times) for times in zip(*(_durations(report) for report in done), strict=True)
            ]
        else:
            samples = done[0].step_samples[0]
            ends = sorted(end for report in done for end in report.step_end_s)
            start = min(report.window_start_s for report in done)
            times = [end - before for before, end in zip([start, *ends], ends, strict=False)]
        return _shared(times, max(1, done[0].samples_per_update // samples))

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
            case "yardstick_s":
                return self.conditions.yardstick_s
            case "loss":
                return self.loss[-1] if self.loss else None
            case "validation_accuracy":
                return self.validation_accuracy
            case _:
                return None

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
class Figures:
    """One metric of a case: a figure per launch, and each rank's median over the launches where
    ranks have figures of their own."""

    per_launch: list[float]
    per_rank: list[float]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured case: its launches, what proved its step right, and where it ran."""

    case: Case
    launches: tuple[Launch, ...]
    correctness: CorrectnessEntry
    environment: Environment
    oversubscribed: bool
    steps: int
    warmup: int
    parallel: bool = False

    def values(self) -> dict[str, Figures]:
        """The metrics that every launch has, by name, in the order of their rows."""
        values = {}
        for metric in METRICS.values():
            launches = [launch.figures(metric) for launch in self.launches]
            if all(launches) and self.case.phase in metric.phases:
                values[metric.name] = Figures(
                    per_launch=[float(metric.over_all(ranks)) for ranks in launches],
                    per_rank=self._per_rank(metric, launches),
                )
        return values

    def _per_rank(self, metric: Metric, launches: list[list[float]]) -> list[float]:
        """Empty also where only some ranks report the metric: nobody could say which."""
        if metric.over_ranks == "job" or {len(ranks) for ranks in launches} != {self.case.gpus}:
            return []
        return [statistics.median(figures) for figures in zip(*launches, strict=True)]


def agree(case: Case, results: Sequence[Correctness]) -> CorrectnessEntry:
    """The check of a case's step, for its record. Raises WrongResult when a rank failed the check
    or does not hold, bit for bit, what rank 0 holds."""
    digests = [result.about.get("digest") for result in results]
    others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
    failures = [
        f"rank {', '.join(others)} hold{'s' if len(others) == 1 else ''} other values than rank 0"
    ] * bool(others)
    failures += [
        f"rank {rank}: {failure}"
        for rank, result in enumerate(results)
        for failure in result.failures
    ]
    if failures:
        raise WrongResult(
            f"{case.label}: the step is wrong, so it was not timed: " + "; ".join(failures[:6])
        )
    # Every rank has tolerances of its own: the figures are those of the rank nearest to its own.
    worst = {
        kind: max(
            (
                (result.deviations[kind], result.tolerances[kind])
                for result in results
                if kind in result.deviations
            ),
            key=lambda pair: (pair[0] / pair[1] if pair[1] else pair[0], pair[1]),
        )
        for kind in dict.fromkeys(kind for result in results for kind in result.deviations)
    }
    return CorrectnessEntry(
        checked=list(worst),
        largest_deviation={kind: deviation for kind, (deviation, _) in worst.items()},
        tolerance={kind: tolerance for kind, (_, tolerance) in worst.items()},
        ranks_agree="bit for bit" if digests[0] is not None else "within the tolerance",
        about={key: fact for key, fact in results[0].about.items() if key != "digest"},
    )


def same_model(case: Case, reports: Sequence[RankReport]) -> None:
    """Raises WrongResult when a rank holds other weights after a run than most ranks, or, of two,
    than rank 0."""
    counts = Counter(report.fingerprint for report in reports)
    most = max(reports, key=lambda report: counts[report.fingerprint]).fingerprint
    others = [str(report.rank) for report in reports if report.fingerprint != most]
    if others:
        raise WrongResult(
            f"{case.label}: rank {', '.join(others)} of {len(reports)} holds another model than the"
            " others after the run: the ranks did not train the same model, so their speed means"
            " nothing; look for random numbers or updates that differ from rank to rank"
        )


def check_metrics(case: Case, reports: Sequence[RankReport]) -> None:
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
