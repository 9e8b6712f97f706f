"""Figures and findings in words, the same wherever a report shows them."""

from typing import Any

from pytest_dnnbench.report.runs import Figure, Result, number
from pytest_dnnbench.report.spread import Interval, interval
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.winners import Contest

NOTHING = "-"
NAMES = {
    "throughput_img_s": "throughput",
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
        return f"{value / 2**30:,.2f} GiB" if abs(value) >= 10 * 2**30 else f"{value / 2**20:,.0f} MiB"
    if unit == "s":
        return f"{1e3 * value:,.4g} ms" if abs(value) < 10 else f"{value:,.2f} s"
    if unit == "img/s":
        return f"{_rounded(value)} img/s"
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:,.4g}" if unit in ("", "1") else f"{value:,.4g} {unit}"


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
    """A ratio as a change, in its interval."""
    return f"{change(lead.middle - 1)} ({change(lead.low - 1)} to {change(lead.high - 1)})"


def finding(contest: Contest, study: Study) -> str:
    """Who wins, by how much; or that nobody does."""
    first = study.label(contest.first)
    if contest.lead is None or contest.second is None:
        return f"not decided: {contest.why}"
    second = study.label(contest.second)
    if not contest.clear:
        return f"no clear winner: {first} before {second} by {span(contest.lead)}"
    return f"{first} before {second} by {span(contest.lead)}"


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
    """The environment and settings that all cases share, in one line: what a plot's caption says."""
    facts, chosen = study.alike, study.alike_settings
    parts = [str(facts[name]) for name in ("gpu", "cpu") if facts.get(name)]
    parts += [f"{facts['cores']} cores"] if facts.get("cores") else []
    parts += [f"{name} {facts[name]}" for name in ("torch", "horovod", "driver") if facts.get(name)]
    named = {
        "batch_size": "batch {}",
        "image_size": "{} px",
        "precision": "{}",
        "dataset": "{} data",
        "scaling": "{} scaling",
    }
    parts += [form.format(chosen[name]) for name, form in named.items() if chosen.get(name) is not None]
    return ", ".join(parts) or "environments differ: see the page"


def caption(study: Study) -> str:
    """What stands under every plot."""
    launches = {len(result.step_time_s) for result in study.latest} or {0}
    counted = f"{min(launches)}" if len(launches) == 1 else f"{min(launches)} to {max(launches)}"
    steps = study.alike_settings.get("steps")
    of = f" of {steps} steps" if steps is not None else ""
    return (
        f"Median of {counted} launches{of}; whiskers: 95% interval over launches; small dots: the launches."
        f" {environment(study)}"
    )


def memory(result: Result) -> str:
    """Allocated / cached of a GPU, or resident of a rank."""
    pair = [result.value(name) for name in ("allocated_peak_bytes", "cached_peak_bytes")]
    if pair[0] is not None:
        return " / ".join(amount(value, "B") for value in pair)
    return amount(result.value("resident_peak_bytes"), "B")


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.1f}" if abs(value) >= 100 else f"{value:,.4g}"
