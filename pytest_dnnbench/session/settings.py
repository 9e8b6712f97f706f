"""The options of a session: one table gives the command line, the ini file, the help text and the
checks.

Below the pytest boundary nothing sees pytest's config, only the frozen Settings made here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.case import DATASETS, MNIST_IMAGE_SIZE, PRECISIONS, SCALINGS, Scalar
from pytest_dnnbench.catalog import DEFAULT_MODELS, FRAMEWORKS, Catalog
from pytest_dnnbench.errors import UsageError

if TYPE_CHECKING:
    import pytest


DEFAULT_LAUNCHES = 3
EFFECT = 0.05
"""The change that --dnn-launches auto is to find, unless it says which."""

_AUTO = re.compile(r"auto(:(?P<percent>[0-9]+(\.[0-9]+)?)%)?")

ALL = "all"
"""Stands for every framework of the catalog, also those that do not run by default."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `--dnn-NAME` and its ini twin `dnn_NAME`, with dashes as underscores. `ini`: its
    type there, where that is not `kind`."""

    name: str
    kind: type
    default: Any
    about: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    ini: Any = None

    @property
    def flag(self) -> str:
        """On the command line."""
        return "--gpus" if self.name == "gpus" else f"--dnn-{self.name}"

    @property
    def key(self) -> str:
        """In the ini file, and as an attribute of pytest's options."""
        return "dnn_" + self.name.replace("-", "_")

    def parse(self, text: Any) -> Any:
        """The value behind what the user wrote. Raises UsageError naming the flag, the value and
        the fix."""
        if self.kind is tuple:
            values = text if isinstance(text, (list, tuple)) else str(text).split(",")
            return tuple(value.strip() for value in values if value.strip())
        if self.kind is bool:
            return text in (True, "true", "True", "1", "yes", "on")
        try:
            value = self.kind(text)
        except (TypeError, ValueError):
            raise UsageError(
                f"{self.flag} {text!r} is not a number ({self.kind.__name__})"
            ) from None
        if self.choices and value not in self.choices:
            raise UsageError(
                f"{self.flag} {value!r} is unknown: choose from {', '.join(self.choices)}"
            )
        if self.at_least is not None and not value >= self.at_least:
            raise UsageError(f"{self.flag} is {value}: it must be at least {self.at_least:g}")
        return value


OPTIONS = (
    Option(
        "gpus",
        int,
        None,
        "cases run on 1, 2, 4, ... up to so many devices (default: all GPUs; CPU: 2)",
        at_least=1,
    ),
    Option("gpu-counts", tuple, None, "exactly these device counts instead, as in 1,3"),
    Option(
        "device",
        str,
        "auto",
        "auto takes CUDA where there is any, else CPU ranks",
        ("auto", "cuda", "cpu"),
    ),
    Option(
        "frameworks",
        tuple,
        None,
        "frameworks to measure, or all, variants included (default: one of each kind)",
    ),
    Option("models", tuple, DEFAULT_MODELS, "models, or package.module:factory of your own"),
    Option("dataset", str, "synthetic", "where images come from", DATASETS),
    Option("data-dir", str, None, "folder with the MNIST files"),
    Option("download", bool, False, "let torchvision fetch MNIST into --dnn-data-dir"),
    Option(
        "image-size",
        int,
        MNIST_IMAGE_SIZE,
        "pixels a side; 28: MNIST's form, others: ImageNet's",
        at_least=1,
    ),
    Option(
        "batch-size",
        int,
        32,
        "images per GPU and step; under strong scaling, of all GPUs together",
        at_least=1,
    ),
    Option("scaling", str, "weak", "what --dnn-batch-size counts as GPUs are added", SCALINGS),
    Option(
        "precision", str, "fp32", "fp32 is IEEE; tf32 needs a GPU; bf16 is autocast", PRECISIONS
    ),
    Option(
        "launches",
        str,
        DEFAULT_LAUNCHES,
        "launches of each case in fresh processes, interleaved over the cases; auto or auto:3%: as many as find such a"
        " change (5%) under the noise of --dnn-baseline",
        ini=int | str,
    ),
    Option("steps", int, 10, "timed steps of a launch", at_least=1),
    Option("warmup", int, 3, "untimed steps before them", at_least=0),
    Option("timeout", float, 600.0, "seconds that one launch may take", at_least=1),
    Option(
        "progress", str, "auto", "what runs now: auto shows it unless quiet", ("auto", "on", "off")
    ),
    Option("report", str, None, "folder for a page, plots and tables of the session"),
    Option(
        "parallel",
        bool,
        False,
        "under xdist's -n, time cases side by side on disjoint devices; see the docs",
    ),
    Option("resume", bool, False, "run what an interrupted session has left to do, and merge"),
    Option(
        "lease-timeout",
        float,
        3600.0,
        "seconds that a launch may wait for devices in use",
        at_least=0,
    ),
    Option("seed", int, 0, "seed of weights, data and shuffling", at_least=0),
    Option(
        "baseline", str, None, "compare with latest, a NAME or NUMBER of the storage, or a file"
    ),
    Option(
        "compare-across", tuple, (), "facts that may differ from the baseline's, as in driver,torch"
    ),
    Option("require-baseline", bool, False, "a case that is compared with nothing fails"),
    Option(
        "limits",
        tuple,
        None,
        "limits as METRIC=LIMIT, as in throughput=-5%,allocated_peak_bytes<=6GiB",
    ),
    Option(
        "confirm",
        int,
        None,
        "fresh launches before a case fails; 0: none (default: --dnn-launches)",
        at_least=0,
    ),
    Option(
        "false-alarms",
        float,
        0.01,
        "share of sessions with nothing changed that may fail",
        at_least=1e-9,
    ),
    Option(
        "accept",
        str,
        None,
        "take this session as a baseline although it is worse; the reason goes on record",
    ),
    Option(
        "calibrate",
        int,
        None,
        "measure so many sessions' launches of each case to learn its noise",
        at_least=2,
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in force, parsed and checked; every value is the user's or the table's
    default."""

    gpus: int | None
    gpu_counts: tuple[int, ...] | None
    device: str
    frameworks: tuple[str, ...] | None
    models: tuple[str, ...]
    dataset: str
    data_dir: str | None
    download: bool
    image_size: int
    batch_size: int
    scaling: str
    precision: str
    launches: int
    steps: int
    warmup: int
    timeout: float
    progress: str
    report: str | None
    parallel: bool
    resume: bool
    lease_timeout: float
    seed: int
    baseline: str | None
    compare_across: tuple[str, ...]
    require_baseline: bool
    limits: tuple[str, ...] | None
    confirm: int | None
    false_alarms: float
    accept: str | None
    calibrate: int | None
    framework_options: dict[str, dict[str, Scalar]]
    effect: float | None = None
    """With --dnn-launches auto the change that is to be found; `launches` is planned before the
    first round."""

    @property
    def rounds(self) -> int:
        """Launches of each case in this session."""
        return self.launches * (self.calibrate or 1)

    def counts(self, available: int) -> tuple[int, ...]:
        """The device counts to run on: --dnn-gpu-counts, or the powers of two up to --gpus, and
        it."""
        if self.gpu_counts is not None:
            return self.gpu_counts
        top = self.gpus if self.gpus is not None else available
        powers = [1 << exponent for exponent in range(top.bit_length()) if 1 << exponent < top]
        return (*powers, top)

    def batch_for(self, gpus: int) -> int:
        """Images per GPU. Raises UsageError when strong scaling does not divide."""
        if self.scaling == "weak":
            return self.batch_size
        share, rest = divmod(self.batch_size, gpus)
        if rest or not share:
            raise UsageError(
                f"strong scaling cannot divide --dnn-batch-size {self.batch_size} by {gpus} GPUs:"
                f" use a multiple of {gpus}, such as {gpus * max(1, round(self.batch_size / gpus))}"
            )
        return share


def add_options(parser: pytest.Parser) -> None:
    """Registers the table, and the own options of the built-in frameworks, with pytest."""
    group = parser.getgroup("dnnbench", "benchmarks of distributed training")
    for option in (*OPTIONS, *_framework_options()):
        shown = f" [{', '.join(option.choices)}]" if option.choices else ""
        known = (
            f" (default: {_text(option.default)})" if option.default not in (None, False) else ""
        )
        if option.kind is bool:
            group.addoption(
                option.flag, dest=option.key, action="store_true", default=None, help=option.about
            )
        else:
            group.addoption(
                option.flag,
                dest=option.key,
                default=None,
                metavar="X",
                help=option.about.replace("%", "%%") + shown + known,
            )
        parser.addini(
            option.key, option.about, type=option.ini or _ini_type(option.kind), default=None
        )


def read_settings(config: pytest.Config, catalog: Catalog) -> Settings:
    """The settings of this session. Raises UsageError for any bad value, before anything starts."""
    values = {option.key.removeprefix("dnn_"): _value(config, option) for option in OPTIONS}
    if values["gpu_counts"] is not None:
        values["gpu_counts"] = tuple(_count(text) for text in values["gpu_counts"])
    values["launches"], values["effect"] = _launches(values["launches"])
    own: dict[str, dict[str, Scalar]] = {}
    for framework in FRAMEWORKS:
        for row in framework.options:
            option = Option(row.flag, type(row.default), row.default, row.about, row.choices)
            own.setdefault(framework.name, {})[row.name] = _value(config, option)
    settings = Settings(**values, framework_options=own)
    _check(settings, catalog)
    return settings


def _check(settings: Settings, catalog: Catalog) -> None:
    for framework in settings.frameworks or ():
        if framework != ALL:
            catalog.framework(framework)
    for model in settings.models:
        catalog.model(model)
    for name in ("frameworks", "models"):
        if getattr(settings, name) == ():
            raise UsageError(f"--dnn-{name} is empty: name at least one, separated by commas")
    if settings.false_alarms >= 0.5:
        raise UsageError(f"--dnn-false-alarms is {settings.false_alarms}: it must be below 0.5")
    if settings.effect is not None and settings.baseline is None:
        raise UsageError(
            "--dnn-launches auto needs --dnn-baseline: launches are planned from the noise of stored sessions;"
            " add --dnn-baseline latest, or give a number of launches"
        )
    if settings.accept is not None and not settings.accept.strip():
        raise UsageError("--dnn-accept is empty: write why the change is right")
    if settings.dataset == "mnist" and not settings.data_dir:
        raise UsageError(
            "--dnn-dataset mnist needs --dnn-data-dir: the folder that holds the MNIST files"
        )
    if settings.dataset == "mnist" and settings.image_size != MNIST_IMAGE_SIZE:
        raise UsageError(
            f"--dnn-image-size is {settings.image_size}: MNIST's images have {MNIST_IMAGE_SIZE} pixels a side"
        )


def _framework_options() -> list[Option]:
    """One per flag: the variants of a framework share theirs."""
    rows = {
        row.flag: (framework, row)
        for framework in reversed(FRAMEWORKS)
        for row in framework.options
    }
    return [
        Option(
            row.flag, type(row.default), row.default, f"{framework.name}: {row.about}", row.choices
        )
        for framework, row in reversed(rows.values())
    ]


def _value(config: pytest.Config, option: Option) -> Any:
    for given in (config.getoption(option.key), config.getini(option.key)):
        if given is not None and given != "":
            return option.parse(given)
    return option.default


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"--dnn-gpu-counts {text!r} is not a count: write whole numbers from 1, as in 1,2,4"
        )
    return int(text)


def _launches(text: str) -> tuple[int, float | None]:
    """The launches, and with auto the change that is to be found; the launches are the fewest
    then."""
    if auto := _AUTO.fullmatch(str(text)):
        percent = float(auto["percent"] or 100 * EFFECT)
        if not 0 < percent < 100:
            raise UsageError(
                f"--dnn-launches {text}: a change to find lies between 0% and 100%, as in auto:3%"
            )
        return DEFAULT_LAUNCHES, percent / 100
    try:
        count = int(text)
    except ValueError:
        raise UsageError(
            f"--dnn-launches {text!r} is not a number: write one such as 5, auto, or auto:3%"
        ) from None
    if count < 1:
        raise UsageError(f"--dnn-launches is {count}: it must be at least 1")
    return count, None


def _ini_type(kind: type) -> Any:
    return {int: "int", float: "float", bool: "bool"}.get(kind, "string")


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
