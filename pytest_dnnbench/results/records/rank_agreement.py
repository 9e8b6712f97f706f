"""What the ranks of a case have to agree upon: the proof of its step before the first launch, and
the model that they hold after each."""

import itertools
from collections import Counter
from collections.abc import Sequence

from pytest_dnnbench.errors import WrongResult
from pytest_dnnbench.function_case import MeasuredCase
from pytest_dnnbench.messages import Correctness, RankReport
from pytest_dnnbench.results.records.schema import CorrectnessEntry

_FAILURES_SHOWN = 6


def agree(case: MeasuredCase, results: Sequence[Correctness]) -> CorrectnessEntry:
    """The check of a case's step, for its record. Raises WrongResult when a rank failed the check
    or does not hold, bit for bit, what rank 0 holds."""
    digests = [result.about.get("digest") for result in results]
    others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
    failures = [
        f"rank {', '.join(others)} hold{'s' if len(others) == 1 else ''} other values than rank 0"
    ] * bool(others)
    failures += _failures_of(results)
    if failures:
        more = len(failures) - _FAILURES_SHOWN
        shown = [*failures[:_FAILURES_SHOWN], *[f"and {more} more"] * (more > 0)]
        raise WrongResult(
            f"{case.label}: the step is wrong, so it was not timed: " + "; ".join(shown)
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
        checked=[*worst, *results[0].checked],
        largest_deviation={kind: deviation for kind, (deviation, _) in worst.items()},
        tolerance={kind: tolerance for kind, (_, tolerance) in worst.items()},
        ranks_agree=_agreement(digests[0] is not None, bool(worst)),
        about={key: fact for key, fact in results[0].about.items() if key != "digest"},
    )


def _failures_of(results: Sequence[Correctness]) -> list[str]:
    """Each rank's first failure, then each rank's second, and so on: ranks check different things,
    and of none of them everything may be left out."""
    columns = [
        [f"rank {rank}: {failure}" for failure in result.failures]
        for rank, result in enumerate(results)
    ]
    rows = itertools.zip_longest(*columns)
    return [failure for row in rows for failure in row if failure is not None]


def _agreement(has_digest: bool, has_figures: bool) -> str:
    if has_digest:
        return "bit for bit"
    return "within the tolerance" if has_figures else ""


def same_model(case: MeasuredCase, reports: Sequence[RankReport]) -> None:
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
