"""One option of a session: its row, how its text is parsed, and how pytest learns of it.

Not here: which options there are (settings.py), and which values go together
(settings_reading.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.catalog import FrameworkOption, FrameworkSpec
from pytest_dnnbench.errors import UsageError

if TYPE_CHECKING:
    import pytest

_TRUTH = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)

MOST_WHOLE = 1_000_000_000
"""Of whole numbers without a bound of their own: beyond any use, and libraries still take it."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `--dnn-NAME` and its ini twin `dnn_NAME`, with dashes as underscores.

    `ini` is its type there, where that is not `kind`. `measured`: it changes what is measured, so
    an interrupted session is continued only with the same value. `repeated`: each use of it on the
    command line, and each line in the ini file, adds one value, commas and all. `adds_up`: the
    lists of several uses on the command line are one list; of any other option the last use
    stands. `without_value` is what the flag alone means, where it may stand alone.
    """

    name: str
    kind: type
    default: Any
    about: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    ini: Any = None
    measured: bool = True
    without_value: str | None = None
    repeated: bool = False
    adds_up: bool = False

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--gpus" if self.name == "gpus" else f"--dnn-{self.name}"

    @property
    def key(self) -> str:
        """The option in the ini file, and as an attribute of pytest's options."""
        return f"dnn_{self.field}"

    @property
    def field(self) -> str:
        """The field of Settings."""
        return self.name.replace("-", "_")

    @property
    def help(self) -> str:
        """The help text, with choices and default."""
        choices = f" [{', '.join(self.choices)}]" if self.choices else ""
        shown = ",".join(self.default) if isinstance(self.default, tuple) else self.default
        default = f" (default: {shown})" if self.default not in (None, False, (), "", 0) else ""
        return self.about + choices + default

    def parse(self, text: Any, place: str = "") -> Any:
        """The value behind what the user wrote. Raises UsageError naming the place (the flag,
        unless told otherwise), the value and the fix."""
        place = place or self.flag
        if self.kind is tuple:
            is_split = self.repeated or isinstance(text, (list, tuple))
            values = text if is_split else str(text).split(",")
            return tuple(value.strip() for value in values if value.strip())
        if self.kind is bool:
            if str(text).lower() not in _TRUTH:
                raise UsageError(f"{place} {text!r} is neither true nor false: write one of them")
            return _TRUTH[str(text).lower()]
        try:
            value = self.kind(text)
        except (TypeError, ValueError):
            example = "a whole number, as 3" if self.kind is int else "a number, as 2.5"
            raise UsageError(f"{place} {text!r} is not a number: write {example}") from None
        if self.choices and value not in self.choices:
            choices = ", ".join(self.choices)
            raise UsageError(f"{place} {value!r} is unknown: choose from {choices}")
        if self.at_least is not None and not value >= self.at_least:
            raise UsageError(f"{place} is {value}: it must be at least {self.at_least:g}")
        most = MOST_WHOLE if self.at_most is None and self.kind is int else self.at_most
        if most is not None and not value <= most:
            raise UsageError(f"{place} is {value}: it must be at most {most:.10g}")
        return value

    def given(self, config: pytest.Config) -> tuple[str, Any]:
        """Where the user has given the option, as messages name it, and the value; the command line
        (with addopts) goes before the ini file. An empty text and None where it is not given.
        Raises UsageError as `parse` and `of_command_line`."""
        places = {
            self.flag: self.of_command_line(config.getoption(self.key)),
            f"{self.key} in the ini file": config.getini(self.key),
        }
        for place, text in places.items():
            if text is not None and text != "":
                return place, self.parse(text, place)
        return "", None

    def is_typed(self, config: pytest.Config) -> bool:
        """Whether the option is among the arguments that pytest was started with: not in addopts,
        nor in PYTEST_ADDOPTS."""
        arguments = map(str, config.invocation_params.args)
        return any(text == self.flag or text.startswith(f"{self.flag}=") for text in arguments)

    def of_command_line(self, value: Any) -> Any:
        """What pytest has of the command line, as `parse` takes it; None where the user has not
        given it. Raises UsageError for an empty text: mostly a shell's variable that is not set,
        which must not take a baseline or a limit away in silence."""
        if value is None or value == []:
            return None
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and not text.strip(" ,") for text in texts):
            raise UsageError(f"{self.flag} is empty: give a value, or leave it out")
        return ",".join(value) if self.adds_up and isinstance(value, list) else value


def option(kind: type, default: Any, about: str, **more: Any) -> Any:
    """A field of Settings that is an option."""
    return dataclasses.field(
        default=default, metadata={"kind": kind, "default": default, "about": about, **more}
    )


def choice(default: str, about: str, choices: tuple[str, ...], **more: Any) -> Any:
    """A field of Settings that is one of a few words."""
    return option(str, default, about, choices=choices, **more)


def add_options(parser: pytest.Parser, options: Iterable[Option]) -> None:
    """Registers options and their ini twins with pytest. Raises UsageError for a flag that is
    already there."""
    group = parser.getgroup("dnnbench", "benchmarks of distributed training")
    for option in options:
        about: dict[str, Any] = {"dest": option.key, "default": None}
        shown = option.help.replace("%", "%%")
        if option.kind is bool:
            about |= {"action": "store_true", "help": shown}
        elif option.repeated or option.adds_up:
            about |= {"action": "append", "metavar": "X", "help": shown}
        else:
            about |= {"metavar": "X", "help": shown}
        if option.without_value is not None:
            about |= {"nargs": "?", "const": option.without_value}
        try:
            group.addoption(option.flag, **about)
        except ValueError as error:
            raise UsageError(f"{option.flag} ({option.about}) cannot be added: {error}") from None
        parser.addini(option.key, option.about, type=_ini_type(option), default=None)


def framework_options(frameworks: Iterable[FrameworkSpec]) -> list[Option]:
    """One option per flag, which several frameworks may share. The first one's row describes it."""
    rows: dict[str, FrameworkOption] = {}
    takers: dict[str, list[str]] = {}
    for framework in frameworks:
        for row in framework.options:
            rows.setdefault(row.flag, row)
            takers.setdefault(row.flag, []).append(framework.name)
    return [
        Option(
            flag,
            type(row.default),
            row.default,
            f"{_all(takers[flag])}: {row.about}",
            row.choices,
            row.at_least,
            row.at_most,
        )
        for flag, row in rows.items()
    ]


def _all(names: list[str]) -> str:
    """The frameworks of an option; the first few where there are many."""
    most = 3
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"


def _ini_type(option: Option) -> Any:
    if option.ini or option.repeated:
        return option.ini or "linelist"
    # Text is read by Option.parse, whose message names the option; pytest's would not. In TOML a
    # number may be a number.
    types = {int: int | str, float: float | int | str, bool: bool | str}
    return types.get(option.kind, "string")
