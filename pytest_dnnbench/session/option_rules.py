"""Which options have no effect in a session, because of other options or of the cases that pytest
has collected: one table of rules. What is done about it: option_effects.py.

Not here: values that an option may not have (settings_reading.py), and options that contradict each
other or the machine (combinations.py, nodes.py, side_by_side.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_dnnbench.catalog import FrameworkSpec
from pytest_dnnbench.catalog.models import IMAGE_CLASSIFIERS, TOKEN_MODELS
from pytest_dnnbench.controller.slurm import in_allocation
from pytest_dnnbench.session import shapes
from pytest_dnnbench.session.nodes import NONE, stays_here
from pytest_dnnbench.session.option import Option, framework_options
from pytest_dnnbench.session.settings import OPTIONS, Settings


@dataclass(frozen=True, slots=True)
class Collected:
    """What the rules ask of a case. `framework` and `model` are its parameters, the model as
    "module:factory"; None where the test has no such parameter, and may name any itself. `chosen`
    are those of its parameters that the session's options decide."""

    framework: str | None = None
    model: str | None = None
    chosen: frozenset[str] = frozenset()
    has_limits: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """What the rules look at. `cases` is None until they are collected."""

    settings: Settings
    is_distributed: bool = False
    is_timed: bool = True
    cases: Sequence[Collected] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Options, when they have an effect, and why not otherwise. `of_cases`: only the collected
    cases tell. `is_only_told`: nobody is refused, wherever the option was given."""

    options: tuple[str, ...]
    has_effect: Callable[[Session], bool]
    why: str
    fix: str
    of_cases: bool = False
    is_only_told: bool = False


def _leaves_open(parameter: str) -> Callable[[Session], bool]:
    """Whether the options decide a parameter of any case."""
    return lambda session: any(parameter in case.chosen for case in session.cases or ())


def _any_model_outside(paths: Iterable[str]) -> Callable[[Session], bool]:
    """Whether any case may have a model that is none of these."""
    return lambda session: any(
        case.model is None or case.model not in paths for case in session.cases or ()
    )


def _may_have_nodes(session: Session) -> bool:
    """Inside an allocation of one node too: the script of a job stands for any number of nodes."""
    settings = session.settings
    return (settings.engine is None and in_allocation()) or not stays_here(settings)


def _is_judged(session: Session) -> bool:
    settings = session.settings
    limited = settings.limits or settings.ini_limits or settings.baseline
    return bool(limited) or any(case.has_limits for case in session.cases or ())


def _has_tests(session: Session) -> bool:
    settings = session.settings
    return _is_judged(session) or settings.has_other_side or settings.calibrate is not None


RULES = (
    Rule(
        ("parallel",),
        lambda session: session.is_distributed,
        "without pytest-xdist's -n",
        "give -n N too",
    ),
    Rule(
        ("interface", "ranks_per_node", "preflight"),
        _may_have_nodes,
        "on one machine",
        "say with --dnn-engine how processes are started on nodes",
    ),
    Rule(
        ("nodes", "engine_command"),
        lambda session: session.settings.engine != NONE,
        "with --dnn-engine none",
        "name another engine",
    ),
    Rule(
        ("data_dir", "download"),
        lambda session: session.settings.dataset == "mnist",
        "without --dnn-dataset mnist",
        "give it too",
    ),
    Rule(
        ("text",),
        lambda session: session.settings.dataset == "text",
        "without --dnn-dataset text",
        "give it too",
    ),
    Rule(
        ("compare_across", "anchor"),
        lambda session: session.settings.baseline is not None,
        "without --dnn-baseline",
        "add --dnn-baseline latest",
    ),
    Rule(
        ("against_limits",),
        lambda session: session.settings.has_other_side,
        "without another side",
        "add --dnn-against, --dnn-against-path or --dnn-against-env",
    ),
    Rule(
        ("confirm",),
        _is_judged,
        "without a baseline and without limits",
        "add --dnn-baseline or --dnn-limits",
        of_cases=True,
    ),
    Rule(
        ("false_alarms",),
        _has_tests,
        "in a session that compares nothing",
        "add --dnn-baseline, --dnn-limits, --dnn-against or --dnn-calibrate",
        of_cases=True,
    ),
    Rule(
        ("image_size",),
        _any_model_outside(TOKEN_MODELS),
        "on models of tokens",
        "name a model of images",
        of_cases=True,
    ),
    Rule(
        ("sequence_length",),
        _any_model_outside(IMAGE_CLASSIFIERS),
        "on models of images",
        "name a model of tokens, as gpt-tiny",
        of_cases=True,
    ),
    # Tests may choose for themselves, and their options stand for a whole suite.
    *(
        Rule(
            (option,),
            _leaves_open(parameter),
            f"on tests that choose their {noun} themselves",
            f"take the parameter `{parameter}` in a test",
            of_cases=True,
            is_only_told=True,
        )
        for option, parameter, noun in (
            ("frameworks", "framework", "framework"),
            ("models", "model", "model"),
            ("shapes", shapes.FIXTURE, "framework or number of ranks"),
        )
    ),
    # The usual command line with --benchmark-disable is a good smoke test.
    Rule(
        (
            *("baseline", "limits", "require_baseline", "calibrate", "report", "breakdown"),
            *("traces", "predict", "prediction_error", "against_limits"),
        ),
        lambda session: session.is_timed,
        "with --benchmark-disable, which times nothing",
        "leave that out",
        is_only_told=True,
    ),
)


def rules_of(frameworks: Iterable[FrameworkSpec]) -> Iterator[tuple[Option, Rule]]:
    """Each option with each rule about it: those of the table, and of each option of a framework
    that some case is to be of a framework that takes it."""
    by_name = {option.field: option for option in OPTIONS}
    for rule in RULES:
        for name in rule.options:
            yield by_name[name], rule
    rows = list(frameworks)
    for option in framework_options(rows):
        takers = [row.name for row in rows if any(o.flag == option.name for o in row.options)]
        yield option, _rule_of_framework(option, takers)


def _rule_of_framework(option: Option, takers: Sequence[str]) -> Rule:
    def has_effect(session: Session) -> bool:
        cases = session.cases or ()
        return any(case.framework is None or case.framework in takers for case in cases)

    several = f"{', '.join(takers[:-1])} or {takers[-1]}" if takers[1:] else takers[0]
    return Rule(
        (option.name,),
        has_effect,
        f"without a case of {several}",
        f"add {takers[0]} to --dnn-frameworks",
        of_cases=True,
    )
