"""What the ranks of a case's launches measured, reduced to one figure per launch. Raw samples are
kept."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.messages import Correctness, RankReport
from pytest_dnnbench.metrics import YARDSTICK
from pytest_dnnbench.results.records.schema import Conditions


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a case: its ranks' reports, in rank order, and its conditions: the devices it
    ran on and who disturbed it (see controller/disturbance.py)."""

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
        """Seconds of a step for which each rank needs no other: its quartiles over the steps; empty
        where not all of several ranks tell."""
        told = [report.own_work_s for report in self.reports]
        return [_quartiles(steps) for steps in told] if len(told) > 1 and all(told) else []

    def memory(self, kind: str) -> list[int] | None:
        """The peak of each rank in bytes; None where this device has no such figure."""
        peaks = [report.memory_bytes.get(kind) for report in self.reports]
        return [peak for peak in peaks if peak is not None] if None not in peaks else None

    def own(self, name: str) -> list[float]:
        """What each rank says of one of the framework's own metrics; empty where it has none."""
        return [report.metrics[name] for report in self.reports if name in report.metrics]

    @property
    def loss(self) -> list[float]:
        """The loss of each step of the run, warm-up included: the mean over the ranks that see
        one."""
        seen = [report.loss for report in self.reports if report.loss]
        return [statistics.fmean(values) for values in zip(*seen, strict=False)]

    @property
    def validation_accuracy(self) -> float | None:
        """Correct / all samples of the validation set; None without one."""
        counts = [report.validation for report in self.reports if report.validation is not None]
        return (
            sum(count[0] for count in counts) / sum(count[1] for count in counts)
            if counts
            else None
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured case: its launches, what proved its step right, and where it ran."""

    case: Case
    launches: tuple[Launch, ...]
    correctness: dict[str, object]
    environment: dict[str, dict[str, Scalar | None]]
    oversubscribed: bool
    steps: int
    warmup: int
    parallel: bool = False

    def values(self) -> dict[str, tuple[list[float], list[float]]]:
        """Per metric: one value per launch, and one per rank (its median over the launches) where
        ranks differ."""
        launches = self.launches
        found: dict[str, tuple[list[float], list[float]]] = {
            "throughput": ([launch.throughput for launch in launches], []),
            "step_time_s": ([statistics.median(launch.step_time_s) for launch in launches], []),
        }
        for kind in ("allocated", "cached", "resident"):
            peaks = [launch.memory(kind) for launch in launches]
            known = [peak for peak in peaks if peak is not None]
            if len(known) == len(launches):
                per_rank = [statistics.median(ranks) for ranks in zip(*known, strict=True)]
                found[f"{kind}_peak_bytes"] = ([float(max(peak)) for peak in known], per_rank)
        for name in launches[0].reports[0].metrics:
            said = [launch.own(name) for launch in launches]
            per_rank = [statistics.median(ranks) for ranks in zip(*said, strict=True)]
            found[name] = ([statistics.fmean(ranks) for ranks in said], per_rank)
        yardsticks = [launch.conditions.yardstick_s for launch in launches]
        if None not in yardsticks:
            found[YARDSTICK] = ([seconds for seconds in yardsticks if seconds is not None], [])
        if self.case.phase == "train" and all(launch.loss for launch in launches):
            found["loss"] = ([launch.loss[-1] for launch in launches], [])
        accuracies = [launch.validation_accuracy for launch in launches]
        if accuracies and None not in accuracies:
            found["validation_accuracy"] = (
                [value for value in accuracies if value is not None],
                [],
            )
        return found


def agree(case: Case, results: Sequence[Correctness]) -> dict[str, object]:
    """What was checked about a case's step, for its record. Raises WrongResult when a rank failed
    the check or does not hold, bit for bit, what rank 0 holds."""
    failures = [
        f"rank {rank}: {failure}"
        for rank, result in enumerate(results)
        for failure in result.failures
    ]
    digests = [result.about.get("digest") for result in results]
    failures += [
        f"rank {rank} holds other values than rank 0"
        for rank, one in enumerate(digests)
        if one != digests[0]
    ]
    if failures:
        raise WrongResult(
            f"{case.id} ({case.phase}): the step is wrong, so it was not timed: "
            + "; ".join(failures[:6])
        )
    worst = {
        name: max(result.deviations.get(name, 0.0) for result in results)
        for name in results[0].deviations
    }
    about = {key: value for key, value in results[0].about.items() if key != "digest"}
    return {
        "checked": list(worst),
        "largest_deviation": worst,
        "tolerance": results[0].tolerances,
        "ranks_agree": "bit for bit" if digests[0] is not None else "within the tolerance",
        **about,
    }


def same_model(case: Case, reports: Sequence[RankReport]) -> None:
    """Raises WrongResult when a rank holds other weights after a run than most of them, or than
    rank 0."""
    counts = Counter(report.fingerprint for report in reports)
    most = max(reports, key=lambda report: counts[report.fingerprint]).fingerprint
    others = [str(report.rank) for report in reports if report.fingerprint != most]
    if others:
        raise WrongResult(
            f"{case.id} ({case.phase}): rank {', '.join(others)} of {len(reports)} holds another model than the others"
            " after the run: they did not train the same one, so its speed means nothing; look for random numbers or"
            " updates that differ from rank to rank"
        )


def _durations(report: RankReport) -> list[float]:
    befores = (report.window_start_s, *report.step_end_s)
    return [end - before for before, end in zip(befores, report.step_end_s, strict=False)]


def _quartiles(values: Sequence[float]) -> list[float]:
    return (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )


def _shared(times: list[float], together: int) -> list[float]:
    """The same times, each run of so many replaced by its mean."""
    runs = [times[start : start + together] for start in range(0, len(times), together)]
    return [statistics.fmean(run) for run in runs for _ in run]
