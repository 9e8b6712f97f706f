"""A record measured again: what of it cannot be had here, and where the losses of two launches
part. Pure; the session is started by replay_command.py.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench.proc import cpu_model
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.results.records.schema import Record

EPSILONS = {"fp32": 2.0**-23, "tf32": 2.0**-10, "bf16": 2.0**-7}
"""The distance of 1 from the next number, of the type in which products are made."""

ROUNDINGS = 64
"""So many roundings of a loss are no difference: other threads add in another order. What training
makes of them grows from step to step, so the first step that differs by more is where to look."""

PREFIX = "variables."


@dataclass(frozen=True, slots=True)
class Parting:
    """The first step, counted from 0 and with the warm-up, at which two launches' losses differ by
    more than rounding; and both losses."""

    step: int
    then: float
    now: float


def lacking(result: Result, variables: Mapping[str, str], across: Sequence[str] = ()) -> list[str]:
    """What the record was measured with and this process cannot give: versions of packages, the
    processor, variables; each with both values. `across`: facts that may differ."""
    facts = result.record.environment.must_match
    here = {name: _installed(name) for name in facts if _is_package(name)} | {"cpu": cpu_model()}
    lines = [
        f"{name}: {facts[name]}, here {now or 'not installed'}"
        for name, now in here.items()
        if facts.get(name) and _release(facts[name]) != _release(now) and name not in across
    ]
    for name, value in facts.items():
        variable = name.removeprefix(PREFIX)
        if variable == name or {name, variable, "variables"} & set(across):
            continue
        if (now := variables.get(variable)) != value:
            lines.append(f"{variable}={value}, here {'not set' if now is None else now}")
    return lines


def parting(then: Sequence[float], now: Sequence[float], precision: str) -> Parting | None:
    """Where the losses of the steps that both have part; None where they never do."""
    allowed = ROUNDINGS * EPSILONS[precision]
    for step, (before, after) in enumerate(zip(then, now, strict=False)):
        # Not `>`: a loss that is no number differs from every other.
        if not abs(after - before) <= allowed * max(abs(before), abs(after)):
            return Parting(step, before, after)
    return None


def losses_text(then: Record, now: Record, precision: str) -> str:
    """What became of the losses, in a sentence."""
    before, after = then.launches[0].loss, now.launches[0].loss
    steps = min(len(before), len(after))
    if not steps:
        return "losses: none were recorded"
    parted = parting(before, after, precision)
    if parted is not None:
        return (
            f"losses part at step {parted.step} of {steps}: {parted.then:.9g} in the record,"
            f" {parted.now:.9g} now; the steps before agree within {ROUNDINGS} roundings of"
            f" {precision}"
        )
    if before[:steps] == after[:steps]:
        return f"losses: all of {steps} steps are the same to the last bit"
    return f"losses: all of {steps} steps agree within {ROUNDINGS} roundings of {precision}"


def _is_package(fact: str) -> bool:
    return fact in ("torch", "torchvision", "horovod")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: object) -> str:
    """A version without the build's label: torch itself says 2.13.0+cpu, its package need not."""
    return str(version).partition("+")[0]
