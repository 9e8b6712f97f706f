"""A record measured again: what of it cannot be had here, and where the losses of two launches
part. Pure; the session is started by replay_command.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_dnnbench.counted import counted
from pytest_dnnbench.installed import installed_version
from pytest_dnnbench.proc import cpu_model
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.speed_variables import PREFIX, cannot_be_set, speed_variables

EPSILONS = {"fp32": 2.0**-23, "tf32": 2.0**-10, "bf16": 2.0**-7}
"""The distance of 1 from the next number, of the type in which products are made."""

ROUNDINGS = 64
"""So many roundings of a loss are no difference: other threads add in another order. What training
makes of them grows from step to step, so the first step that differs by more is where to look."""


@dataclass(frozen=True, slots=True)
class Parting:
    """The first step, counted from 0 and with the warm-up, at which two launches' losses differ by
    more than rounding; and both losses."""

    step: int
    then: float
    now: float


@dataclass(frozen=True, slots=True)
class Variables:
    """What the environment of a replay has other than this process's: variables that are set, and
    those that are taken away; and a line for each that the record has and nobody may set."""

    set: dict[str, str]
    unset: tuple[str, ...]
    refused: tuple[str, ...]

    def of(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment of the replay."""
        return {
            **{name: value for name, value in environment.items() if name not in self.unset},
            **self.set,
        }

    @property
    def words(self) -> list[str]:
        """They as a shell has them before a command; none without any."""
        removals = [word for name in self.unset for word in ("-u", name)]
        assignments = [f"{name}={value}" for name, value in self.set.items()]
        return ["env", *removals, *assignments] if removals or assignments else []


def variables_of(
    result: Result, environment: Mapping[str, str], across: Sequence[str] = ()
) -> Variables:
    """The recorded variables beside those of a process. `across`: facts that may differ."""
    recorded = _compared(result.record.environment.must_match, across)
    here = _compared(speed_variables(environment), across)
    differing, refused = {}, []
    for name, value in recorded.items():
        if here.get(name) == value:
            continue
        if why := cannot_be_set(name, value):
            refused.append(f"{name}={value}, here {here.get(name, 'not set')} ({why})")
        else:
            differing[name] = value
    return Variables(differing, tuple(sorted({*here} - {*recorded})), tuple(refused))


def _compared(facts: Mapping[str, object], across: Sequence[str]) -> dict[str, str]:
    """The variables among facts that may not differ."""
    return {
        fact.removeprefix(PREFIX): str(value)
        for fact, value in facts.items()
        if fact.startswith(PREFIX)
        and not {fact, fact.removeprefix(PREFIX), "variables"} & set(across)
    }


def lacking(result: Result, across: Sequence[str] = ()) -> list[str]:
    """What the record was measured with and this machine cannot give: versions of packages, the
    processor; each with both values. `across`: facts that may differ."""
    facts = result.record.environment.must_match
    here = {name: installed_version(name) for name in facts if _is_package(name)}
    here["cpu"] = cpu_model()
    return [
        f"{name}: {facts[name]}, here {now or 'not installed'}"
        for name, now in here.items()
        if facts.get(name) and _release(facts[name]) != _release(now) and name not in across
    ]


def parting(then: Sequence[float], now: Sequence[float], precision: str) -> Parting | None:
    """Where the losses of the steps that both have part; None where they never do."""
    allowed = ROUNDINGS * EPSILONS[precision]
    for step, (before, after) in enumerate(zip(then, now, strict=False)):
        # Not `>`: a loss that is no number differs from every other.
        if not abs(after - before) <= allowed * max(abs(before), abs(after)):
            return Parting(step, before, after)
    return None


def losses_text(then: Record, now: Record, precision: str) -> str:
    """What became of the losses, in a sentence; where they part, also whether the launches of the
    record part among themselves."""
    before, after = then.launches[0].loss, now.launches[0].loss
    steps = min(len(before), len(after))
    if not steps:
        return "losses: none were recorded"
    parted = parting(before, after, precision)
    if parted is not None:
        return (
            f"losses part at step {parted.step} of {steps}: {parted.then:.9g} in the record,"
            f" {parted.now:.9g} now; the steps before agree within {ROUNDINGS} roundings of"
            f" {precision}; {_among_themselves(then, precision)}"
        )
    if before[:steps] == after[:steps]:
        return f"losses of {counted(steps, 'step')}: the same to the last bit"
    return f"losses of {counted(steps, 'step')}: equal within {ROUNDINGS} roundings of {precision}"


def _among_themselves(record: Record, precision: str) -> str:
    """Whether a case gives the same losses twice at all, by the launches of its record."""
    first, *others = (launch.loss for launch in record.launches)
    parted = [part for each in others if (part := parting(first, each, precision)) is not None]
    if not others:
        return "the record has one launch, which does not show whether its losses repeat"
    if parted:
        step = min(part.step for part in parted)
        return f"those of the record's own launches part as well, at step {step}"
    return f"those of the record's own {len(others) + 1} launches do not part"


def _is_package(fact: str) -> bool:
    return fact in ("torch", "torchvision", "horovod")


def _release(version: object) -> str:
    """A version without the build's label: torch itself says 2.13.0+cpu, its package need not."""
    return str(version).partition("+")[0]
