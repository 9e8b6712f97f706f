"""Figures and findings in words, the same wherever a report shows them."""

from collections.abc import Mapping
from typing import Any

from pytest_dnnbench.report.runs import Figure, number, plain
from pytest_dnnbench.report.spread import Interval, interval
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.winners import Contest

NOTHING = "-"
NAMES = {
    "throughput": "throughput",
    "step_time_s": "step time",
    "allocated_peak_bytes": "memory allocated, peak",
    "cached_peak_bytes": "memory cached, peak",
    "resident_peak_bytes": "memory resident, peak",
    "speedup": "speed-up",
    "scaling_efficiency": "efficiency",
    "validation_accuracy": "validation accuracy",
    "loss": "loss after the last step",
}


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit, in the multiple that reads best."""
    if value is None:
        return NOTHING
    if unit == "B":
        return (
            f"{value / 2**30:,.2f} GiB" if abs(value) >= 10 * 2**30 else f"{value / 2**20:,.0f} MiB"
        )
    if unit == "s":
        return f"{1e3 * value:,.4g} ms" if abs(value) < 10 else f"{value:,.2f} s"
    if unit == "img/s":
        return f"{_rounded(value)} img/s"
    if unit == "x":
        return f"{value:.2f}x"
    if unit == "1":
        return f"{value:.1%}"
    return f"{value:,.4g}" if not unit else f"{value:,.4g} {unit}"


def rate(value: float | None) -> str:
    """Images per second, without the unit."""
    return NOTHING if value is None else _rounded(value)


def bounds(figure: Figure, metric: str) -> str:
    """The 95% interval over the launches; says why when there is none."""
    found = interval(figure.per_launch, metric)
    if found is None:
        return "no interval" if len(figure.per_launch) < 2 else NOTHING
    return f"{amount(found.low, figure.unit)} to {amount(found.high, figure.unit)}"


def change(fraction: Any) -> str:
    """A signed change in percent."""
    value = number(fraction)
    if value is None:
        return NOTHING
    return f"{value:+.1%}" if abs(value) < 10 else f"{value:+,.0%}"


def span(lead: Interval) -> str:
    """A ratio as a lead in percent, in its interval."""
    middle, low, high = (_lead(ratio) for ratio in (lead.middle, lead.low, lead.high))
    return f"{middle} ({low} to {high})"


def _lead(ratio: float) -> str:
    """With as many digits as tell its sign."""
    percent = 100 * (ratio - 1)
    return f"{percent:.2f}%" if abs(percent) < 0.05 else f"{percent:,.1f}%"


def finding(contest: Contest, study: Study) -> str:
    """Who is ahead and by how much; or why that is not known."""
    first = study.label(contest.first)
    if contest.lead is None or contest.second is None:
        return f"not decided: {contest.why}"
    return f"{first} ahead of {study.label(contest.second)} by {span(contest.lead)}"


def headline(found: list[Contest], study: Study) -> list[str]:
    """How often each series is clearly the fastest, and how often nobody is."""
    decided = [contest for contest in found if contest.lead is not None]
    if not decided:
        return []
    wins: dict[str, int] = {}
    for contest in decided:
        if contest.clear:
            name = study.label(contest.first)
            wins[name] = wins.get(name, 0) + 1
    lines = [
        f"{name} is clearly the fastest in {count} of {len(decided)} comparisons."
        for name, count in sorted(wins.items(), key=lambda pair: -pair[1])[:8]
    ]
    if rest := len(decided) - sum(wins.values()):
        lines.append(f"No clear winner in {rest} of {len(decided)}.")
    return lines


def environment(study: Study) -> str:
    """The environment and settings that all cases share, in one line: what a plot's caption
    says."""
    facts, chosen = study.alike, study.alike_settings
    gpus = {
        name
        for result in study.latest
        for name in str(result.must_match.get("gpu") or "").split(", ")
        if name
    }
    parts = [*gpus] if len(gpus) == 1 else []
    parts += [str(facts["cpu"])] if facts.get("cpu") else []
    parts += [f"{facts['cores']} cores"] if facts.get("cores") else []
    parts += [f"{name} {facts[name]}" for name in ("torch", "horovod", "driver") if facts.get(name)]
    named = {
        "batch_size": "batch {}",
        "image_size": "{} px",
        "precision": "{}",
        "dataset": "{} data",
        "scaling": "{} scaling",
    }
    parts += [
        form.format(chosen[name]) for name, form in named.items() if chosen.get(name) is not None
    ]
    return ", ".join(parts) or "environments differ: see the page"


def caption(study: Study, key: str = "throughput") -> str:
    """What stands under a plot: what its marks are, unless the plot tells it itself, and where it
    was measured."""
    if key == "steps":
        return f"{environment(study)}."
    launches = {len(result.step_time_s) for result in study.latest} or {0}
    counted = f"{min(launches)}" if len(launches) == 1 else f"{min(launches)} to {max(launches)}"
    steps = study.alike_settings.get("steps")
    of = f" of {steps} steps" if steps is not None else ""
    return (
        f"Median of {counted} launches{of}; whiskers: 95% interval over launches; small dots: the launches."
        f" {environment(study)}."
    )


def _rounded(value: float) -> str:
    return (
        f"{value:,.0f}"
        if abs(value) >= 1e4
        else f"{value:,.1f}"
        if abs(value) >= 100
        else f"{value:,.4g}"
    )


def facts(found: Mapping[str, Any]) -> str:
    """Names and values in one line, those without a value left out."""
    return plain(
        ", ".join(
            f"{name.replace('_', ' ')} {_fact(value)}"
            for name, value in found.items()
            if value is not None
        ),
        2000,
    )


def evidence(correctness: Mapping[str, Any]) -> list[str]:
    """What was checked about the step: the largest deviation of each kind beside its tolerance, and
    all else told."""
    deviations, tolerances = (
        _mapping(correctness.get(key)) for key in ("largest_deviation", "tolerance")
    )
    lines = []
    for name, deviation in deviations.items():
        allowed = number(tolerances.get(name))
        within = f", allowed {allowed:.0e}" if allowed is not None else ""
        found = number(deviation)
        lines.append(
            f"{name}: largest deviation {'unknown' if found is None else f'{found:.1e}'}{within}"
        )
    if correctness.get("ranks_agree"):
        lines.append(f"ranks agree {correctness['ranks_agree']}")
    known = {"checked", "largest_deviation", "tolerance", "ranks_agree"}
    lines += [
        f"{name.replace('_', ' ')}: {_fact(value)}"
        for name, value in correctness.items()
        if name not in known
    ]
    return [plain(line) for line in lines[:20]]


def against(baseline: Mapping[str, Any]) -> str:
    """The baseline of a verdict."""
    sessions = baseline.get("sessions")
    counted = (
        f", {sessions} session{'s' if sessions != 1 else ''}" if isinstance(sessions, int) else ""
    )
    return plain(f"{baseline.get('file') or 'a saved run'}{counted}")


def judged(verdict: Mapping[str, Any]) -> list[str]:
    """A line per metric that was judged."""
    lines = []
    for name, entry in list(_mapping(verdict.get("metrics")).items())[:20]:
        one = _mapping(entry)
        line = (
            f"{NAMES.get(name, name)} {one.get('status', 'unknown')}: {change(one.get('change'))}"
        )
        ends = one.get("interval")
        if isinstance(ends, list) and len(ends) == 2:
            line += f" ({change(ends[0])} to {change(ends[1])})"
        if number(one.get("limit")) is not None:
            line += f", limit {change(one['limit'])}"
        if number(one.get("minimum_detectable")) is not None:
            line += f", smallest change that is found {one['minimum_detectable']:.1%}"
        lines.append(plain(line))
    return lines


def plan(found: Any) -> list[str]:
    """How a pipeline was cut, what was predicted of it and what came of it; its operators and ranks
    are left out."""
    told = {
        name: value
        for name, value in _mapping(found).items()
        if isinstance(value, (str, int, float))
    }
    times = [name for name in told if name.endswith("_time_s")]
    lines = (
        [facts({name: value for name, value in told.items() if name not in times})] if told else []
    )
    return lines + [
        f"{name.removesuffix('_s').replace('_', ' ')} {amount(number(told[name]), 's')}"
        for name in times
    ]


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(one)}" for name, one in value.items()) or "none"
    return ", ".join(map(_fact, value)) if isinstance(value, list) else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
