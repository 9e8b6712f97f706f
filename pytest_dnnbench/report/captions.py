"""What stands under a plot: what its marks are, and where and how the cases were measured."""

from pytest_dnnbench.report.study import Study

_PACKAGES = ("torch", "horovod", "driver")
_SETTINGS = {
    "batch_size": "batch {}",
    "image_size": "{} px",
    "sequence_length": "{} tokens",
    "precision": "{}",
    "dataset": "{} data",
    "scaling": "{} scaling",
}


def environment_line(study: Study) -> str:
    """The environment and the settings that all cases share, in one line."""
    facts, chosen = study.alike, study.alike_settings
    parts = _gpu_names(study)
    parts += [str(facts["cpu"])] if facts.get("cpu") else []
    parts += [f"{facts['cores']} cores"] if facts.get("cores") else []
    parts += [f"{name} {facts[name]}" for name in _PACKAGES if facts.get(name)]
    parts += [form.format(chosen[name]) for name, form in _SETTINGS.items() if chosen.get(name)]
    parts += [str(chosen["form"])] if chosen.get("form", "plain") != "plain" else []
    return ", ".join(parts) or "environments differ: see the page"


def caption(study: Study, plot: str = "throughput") -> str:
    """The caption of a plot. Those of step times and of breakdowns explain their marks
    themselves."""
    environment = environment_line(study)
    if plot in ("steps", "breakdown", "predictions"):
        return f"{environment}."
    marks = "whiskers: 95% interval over launches"
    if plot in ("throughput", "speedup", "memory"):
        marks += "; small dots: the launches"
    return f"Median of {launches_and_steps(study)}; {marks}. {environment}."


def table_caption(study: Study) -> str:
    """The caption of a table of cases."""
    return (
        f"Median of {launches_and_steps(study)}; ±: half of the 95% interval over launches; bold:"
        f" clearly the fastest on its number of devices. {environment_line(study)}."
    )


def launches_and_steps(study: Study) -> str:
    """As in `3 to 5 launches of 10 steps`, or `of 5s`."""
    counts = {len(result.record.launches) for result in study.measured} or {0}
    least, most = min(counts), max(counts)
    launches = f"{least}" if least == most else f"{least} to {most}"
    steps = study.alike_settings.get("steps")
    unit = " steps" if isinstance(steps, int) else ""  # seconds have theirs, as in 5s
    of_steps = "" if steps is None else f" of {steps}{unit}"
    left_out = any(result.disturbed for result in study.measured)
    noun = "launch" if most == 1 else "launches"
    return f"{launches} {noun}{of_steps}" + (", disturbed ones left out" if left_out else "")


def _gpu_names(study: Study) -> list[str]:
    """The kind of GPU, when all cases have the same; the fact lists one name per GPU."""
    names = {
        name
        for result in study.measured
        for name in str(result.record.environment.must_match.get("gpu") or "").split(", ")
        if name
    }
    return [*names] if len(names) == 1 else []
