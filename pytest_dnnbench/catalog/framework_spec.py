"""What a framework is to a case: a row that names its worker, its options and its limits. Nothing
that a row points to is imported here.

Not here: the built-in rows (frameworks.py)."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.row_fields import check_fields, check_paths
from pytest_dnnbench.shape import AXES, Shape
from pytest_dnnbench.step_form import StepForm, check_form

_WORD = r"\w[\w.+-]*"
"""What the command line can name: in lists, which commas part, and in the ids of tests."""


@dataclass(frozen=True, slots=True)
class FrameworkOption:
    """An option of one framework: `--dnn-{flag}` on the command line, `Case.options[name]` on the
    rank."""

    name: str
    flag: str
    default: Scalar
    about: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.name.isidentifier() or not re.fullmatch(_WORD, self.flag):
            raise UsageError(
                f"FrameworkOption {self.name!r} with the flag {self.flag!r}: give a name of"
                " letters, digits and underscores, and a flag as 'bucket-mb', which becomes"
                " --dnn-bucket-mb"
            )

    @property
    def wanted(self) -> str:
        """Its values, in words."""
        words = {bool: "True or False", int: "a whole number", float: "a number"}
        bounds = ""
        if self.at_least is not None:
            bounds += f" of at least {self.at_least:g}"
        if self.at_most is not None:
            bounds += f"{' and' if bounds else ' of'} at most {self.at_most:g}"
        kind = words.get(type(self.default), "text or a number")
        return ", ".join(self.choices) or kind + bounds

    def takes(self, value: object) -> bool:
        """Whether it may have a value, by its choices or its kind."""
        if self.choices:
            return value in self.choices
        kinds: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float)}
        if type(value) not in kinds.get(type(self.default), (str, int, float)):
            return False
        return isinstance(value, str) or _within(value, self.at_least, self.at_most)


def _within(value: object, at_least: float | None, at_most: float | None) -> bool:
    """Whether a number, which may be NaN, lies within the bounds that there are."""
    assert isinstance(value, (int, float))
    above = at_least is None or value >= at_least
    return above and (at_most is None or value <= at_most)


@dataclass(frozen=True, slots=True)
class FrameworkSpec:
    """A framework that cases can name.

    `worker` is the rank side, "module:Class"; `requires` the modules that must be installed, with
    `install` the one command that does it; `preload` what the fork server imports beforehand;
    `rendezvous`, where the framework has its own, "module:function" giving a context manager of
    each rank's environment variables.

    `fits`, where options decide on how many devices a framework runs, is "module:function": called
    without torch with framework, count and options before anything starts, it tells whether a case
    can be, or raises UsageError. `rules`, where options do not all go together, is
    "module:function": called without torch with a Case before anything starts, it raises UsageError
    for what cannot be or would do nothing. `planning`, where something has to be decided once for
    all launches of a case, is "module:function": called on the ranks with place and RunRequest
    before the proof; what it returns on rank 0 becomes RunRequest.plan. `prediction`, where
    something is known of what a step should take, is called alike, and returns a PredictedStep on
    rank 0. A framework that is not `by_default` runs when it is named.

    `refuses` are the models that it cannot train, by "module:factory", each with the reason.
    `axes` are the axes of shapes (shape.py) that it has, each with the option that sets the ranks
    of it; with none, it is what the other axes leave. A framework without axes runs no shape.

    `forms` are the fields of StepForm (step_form.py) that its workers put into effect. All others
    are refused, for the reason in `form_reasons` where there is one.
    """

    name: str
    worker: str
    about: str
    requires: tuple[str, ...] = ()
    install: str = ""
    preload: tuple[str, ...] = ()
    rendezvous: str | None = None
    fits: str | None = None
    rules: str | None = None
    planning: str | None = None
    prediction: str | None = None
    by_default: bool = True
    min_gpus: int = 1
    max_gpus: int | None = None
    options: tuple[FrameworkOption, ...] = ()
    forms: tuple[str, ...] = ()
    form_reasons: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if not re.fullmatch(_WORD, self.name) or self.name == "all":
            raise UsageError(
                f"FrameworkSpec {self.name!r}: give a name of letters, digits, '-', '_', '.' and"
                " '+', other than 'all': --dnn-frameworks lists names with commas"
            )
        check_paths(self, ("worker", "rendezvous", "fits", "rules", "planning", "prediction"))
        options = {"", *(row.name for row in self.options)}
        for axis, option in self.axes.items():
            if axis not in AXES or option not in options:
                raise UsageError(
                    f"the framework {self.name} has the axis {axis!r} with the option {option!r}:"
                    f" name {', '.join(AXES)}, each with an option of the framework, or with ''"
                    " where it is what the other axes leave"
                )

    def missing(self) -> tuple[str, ...]:
        """The required modules that are not installed; importing none of them."""
        return tuple(name for name in self.requires if importlib.util.find_spec(name) is None)

    def check_model(self, name: str, path: str) -> None:
        """Raises UsageError, with the reason, for a model that it cannot train."""
        if path in self.refuses:
            raise UsageError(f"{self.name} cannot train {name}: {self.refuses[path]}")

    def options_of(self, shape: Shape) -> dict[str, Scalar] | None:
        """The options by which it runs a shape; None where it cannot: it lacks an axis of the
        shape, or the shape lacks one of those that make this framework what it is."""
        needed = {axis for axis, option in self.axes.items() if option}
        count = shape.gpus
        possible = self.axes and self.min_gpus <= count <= (self.max_gpus or count)
        if not possible or not needed <= shape.axes <= {*self.axes}:
            return None
        kinds = {row.name: type(row.default) for row in self.options}
        return {
            option: kinds[option](ranks)
            for axis, ranks in shape.ranks
            if (option := self.axes[axis])
        }

    def check_form(self, form: StepForm, device: str) -> None:
        """Raises UsageError, with the reason, where it cannot run a step in this form on this kind
        of device."""
        check_form(self.name, form, self.forms, self.form_reasons, device)

    def check_options(self, options: Mapping[str, Scalar]) -> None:
        """Raises UsageError for an option that it does not have, or of a value that none has, and
        for what is no dict of options."""
        rows = {row.name: row for row in self.options}
        if not isinstance(options, Mapping):
            raise UsageError(
                f"the options of {self.name} are {options!r}: give a dict of names to values"
            )
        for name, value in options.items():
            if name not in rows:
                choices = f"choose from {', '.join(rows)}" if rows else "it has none"
                raise UsageError(f"{self.name} has no option {name!r}: {choices}")
            if not rows[name].takes(value):
                raise UsageError(
                    f"{self.name}'s option {name!r} is {value!r}: give {rows[name].wanted}"
                )
