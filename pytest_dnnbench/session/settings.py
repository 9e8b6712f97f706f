"""The options of a session: each field of `Settings` is an option, and its row gives the command
line, the ini file, the help text and the checks.

Below the pytest boundary nothing sees pytest's config, only the frozen Settings made here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.case import (
    DATASETS,
    IMAGENET_IMAGE_SIZE,
    MNIST_IMAGE_SIZE,
    PRECISIONS,
    SCALINGS,
    Scalar,
)
from pytest_dnnbench.catalog import (
    DEFAULT_MODELS,
    IMAGE_CLASSIFIERS,
    MODELS,
    Catalog,
    FrameworkSpec,
)
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.statistics.paired import MOST_ROUNDS
from pytest_dnnbench.run_length import (
    AUTO,
    FUNCTION_ON_CPU,
    FUNCTION_ON_GPU,
    MOST_FUNCTION_STEPS,
    TIMED_ON_GPU,
    TIMED_STEPS,
    Length,
    as_seconds,
    as_warmup,
)
from pytest_dnnbench.step_form import (
    CHANNELS_LAST,
    COMPILE_MODES,
    CONTIGUOUS,
    FORM_FIELDS,
    MEMORY_FORMATS,
    StepForm,
)

if TYPE_CHECKING:
    import pytest


BY_DEVICE = 0
"""Of a number: the user has not said, so the kind of device decides (Settings.on); an empty text
says the same."""

DEFAULT_LAUNCHES = 3
"""Of each case, where the user gives no number; MOST_ROUNDS (statistics/paired.py) where there are
two environments to compare."""
EFFECT = 0.05
"""The change that --dnn-launches auto is to detect, unless it says which."""

_AUTO = re.compile(r"auto(:(?P<percent>[0-9]+(\.[0-9]+)?)%)?")

_TRUTH = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)

ALL = "all"
"""Stands for every framework of the catalog, also those that do not run by default."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `--dnn-NAME` and its ini twin `dnn_NAME`, with dashes as underscores.

    `ini` is its type there, where that is not `kind`. `measured`: it changes what is measured, so
    an interrupted session is continued only with the same value. `repeated`: each use of it on the
    command line, and each line in the ini file, adds one value, commas and all. `without_value` is
    what the flag alone means, where it may stand alone.
    """

    name: str
    kind: type
    default: Any
    about: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    ini: Any = None
    measured: bool = True
    without_value: str | None = None
    repeated: bool = False

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--gpus" if self.name == "gpus" else f"--dnn-{self.name}"

    @property
    def key(self) -> str:
        """The option in the ini file, and as an attribute of pytest's options."""
        return "dnn_" + self.name.replace("-", "_")

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
                raise UsageError(f"{place} {text!r} is neither true nor false")
            return _TRUTH[str(text).lower()]
        try:
            value = self.kind(text)
        except (TypeError, ValueError):
            raise UsageError(f"{place} {text!r} is not a number ({self.kind.__name__})") from None
        if self.choices and value not in self.choices:
            choices = ", ".join(self.choices)
            raise UsageError(f"{place} {value!r} is unknown: choose from {choices}")
        if self.at_least is not None and not value >= self.at_least:
            raise UsageError(f"{place} is {value}: it must be at least {self.at_least:g}")
        return value


def _option(kind: type, default: Any, about: str, **more: Any) -> Any:
    """A field of Settings that is an option."""
    return field(
        default=default, metadata={"kind": kind, "default": default, "about": about, **more}
    )


def _choice(default: str, about: str, choices: tuple[str, ...], **more: Any) -> Any:
    return _option(str, default, about, choices=choices, **more)


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in force, parsed and checked; every value is the user's or the default."""

    gpus: int | None = _option(
        int,
        None,
        "run cases on 1, 2, 4, ... up to this many devices (default: all GPUs; CPU: 2)",
        at_least=1,
    )
    gpu_counts: tuple[int, ...] | None = _option(
        tuple, None, "run cases on exactly these device counts instead, as in 1,3"
    )
    device: str = _choice(
        "auto", "auto takes CUDA where there is any, else CPU ranks", ("auto", "cuda", "cpu")
    )
    frameworks: tuple[str, ...] | None = _option(
        tuple,
        None,
        "frameworks to measure; all adds the variants (default: one of each kind)",
    )
    models: tuple[str, ...] = _option(
        tuple, DEFAULT_MODELS, "models to measure; package.module:factory names your own"
    )
    dataset: str = _choice("synthetic", "where samples come from: text takes --dnn-text", DATASETS)
    data_dir: str | None = _option(str, None, "folder with the MNIST files")
    download: bool = _option(
        bool, False, "let torchvision fetch MNIST into --dnn-data-dir", measured=False
    )
    image_size: int = _option(
        int,
        BY_DEVICE,
        "pixels a side; 28 gives MNIST's form, any other size ImageNet's (default: 28 on CPU ranks,"
        " 224 on GPUs)",
        at_least=1,
    )
    text: str | None = _option(str, None, "file whose bytes are the tokens of --dnn-dataset text")
    sequence_length: int = _option(
        int, 0, "tokens in a sample of a model of tokens; 0 leaves it to the model", at_least=0
    )
    batch_size: int = _option(
        int,
        BY_DEVICE,
        "samples per GPU and step; under strong scaling, of all GPUs together (default: 32; on"
        " GPUs 128 for the suite's image classifiers)",
        at_least=1,
    )
    scaling: str = _choice(
        "weak", "whether --dnn-batch-size is per GPU (weak) or for all GPUs (strong)", SCALINGS
    )
    precision: str = _choice(
        "",
        "fp32 is IEEE; tf32 needs a GPU; bf16 is autocast (default: fp32 on CPU ranks, bf16 on"
        " GPUs)",
        PRECISIONS,
    )
    memory_format: str = _choice(
        "",
        "of images and of the weights of convolutions (default: contiguous on CPU ranks; on GPUs"
        " channels_last for the suite's models)",
        MEMORY_FORMATS,
    )
    compile: str = _choice(
        "",
        "compile the step with torch.compile, in this mode; without a mode: default",
        COMPILE_MODES,
        without_value=COMPILE_MODES[0],
    )
    fused: bool = _option(bool, False, "update all weights in one kernel, the optimiser's fused")
    checkpointing: bool = _option(
        bool, False, "compute activations inside a block again instead of keeping them"
    )
    accumulate: int = _option(
        int, 1, "minibatches of a rank whose gradients one update averages", at_least=1
    )
    cudnn_benchmark: bool = _option(bool, False, "let cuDNN try its algorithms (GPUs only)")
    ranks_per_gpu: int = _option(
        int,
        1,
        "ranks that share a GPU, to prove cases of several ranks on few GPUs; their speed means"
        " nothing",
        at_least=1,
    )
    launches: int = _option(
        str,
        DEFAULT_LAUNCHES,
        "launches of each case in fresh processes, interleaved over the cases; auto or auto:3%"
        " plans as many as detect such a change (5%) under the noise of --dnn-baseline; with"
        f" --dnn-against the most rounds, {MOST_ROUNDS} if not given",
        ini=int | str,
    )
    steps: int | None = _option(
        int,
        None,
        f"timed steps of a launch (default: {TIMED_STEPS} on CPU ranks; on GPUs --dnn-window"
        f" {TIMED_ON_GPU})",
        at_least=1,
    )
    window: str | None = _option(
        str, None, "time steps for at least so long instead, in seconds, as in 5s"
    )
    warmup: int | str = _option(
        str,
        AUTO,
        "steps to run before the timed ones, or seconds, as in 2s; auto runs until steps take"
        " equally long",
        ini=int | str,
    )
    timeout: float = _option(
        float, 600.0, "seconds that one launch may take", at_least=1, measured=False
    )
    progress: str = _choice(
        "auto",
        "show what runs now: auto shows it unless pytest is quiet",
        ("auto", "on", "off"),
        measured=False,
    )
    report: str | None = _option(
        str, None, "folder for a page, plots and tables of the session", measured=False
    )
    breakdown: bool = _option(
        bool,
        False,
        "profile a few more steps after the timed ones of each launch, and show what a step's time"
        " goes into",
        measured=False,
    )
    traces: str | None = _option(
        str,
        None,
        "folder for the traces of profiled steps (Chrome's format), a file per rank; implies"
        " --dnn-breakdown",
        measured=False,
    )
    github: str = _choice(
        "auto",
        "annotations and the job's summary on GitHub Actions; auto writes them where"
        " GITHUB_ACTIONS is true",
        ("auto", "on", "off"),
        measured=False,
    )
    parallel: bool = _option(
        bool,
        False,
        "under pytest-xdist's -n, time cases side by side on disjoint devices; see the docs",
        measured=False,
    )
    resume: bool = _option(
        bool, False, "run what an interrupted session has left to do, and merge", measured=False
    )
    lease_timeout: float = _option(
        float,
        3600.0,
        "seconds that a launch may wait for devices in use",
        at_least=0,
        measured=False,
    )
    seed: int = _option(int, 0, "seed of weights, data and shuffling", at_least=0)
    baseline: str | None = _option(
        str,
        None,
        "compare with this baseline: latest, a NAME or NUMBER in the storage, or a file",
        measured=False,
    )
    anchor: str | None = _option(
        str,
        None,
        "compare with this fixed reference too, which a slow decline leaves: first (sessions of the"
        " storage), a NAME or NUMBER in it, or a file",
        measured=False,
    )
    compare_across: tuple[str, ...] = _option(
        tuple,
        (),
        "environment facts allowed to differ from the baseline's, as in driver,torch",
        measured=False,
    )
    require_baseline: bool = _option(
        bool, False, "fail every case that has no usable baseline", measured=False
    )
    limits: tuple[str, ...] = _option(
        tuple,
        (),
        "limits as METRIC=LIMIT, as in throughput=-5%,allocated_peak_bytes<=6GiB",
        measured=False,
    )
    confirm: int | None = _option(
        int,
        None,
        "fresh launches before a case fails; 0 makes none (default: --dnn-launches)",
        at_least=0,
        measured=False,
    )
    false_alarms: float = _option(
        float,
        0.01,
        "accepted false-alarm rate: the fraction of sessions that may fail although nothing"
        " changed",
        at_least=1e-9,
        measured=False,
    )
    accept: str | None = _option(
        str,
        None,
        "take this session as a baseline although it is worse; the reason goes on record",
        measured=False,
    )
    calibrate: int | None = _option(
        int,
        None,
        "measure as many launches of each case as this many sessions, to learn its noise",
        at_least=2,
    )
    engine: str | None = _option(
        str,
        None,
        "how processes are started on nodes: prefix, slurm, mpirun, or none to stay on this machine"
        " (default: slurm inside an allocation of several nodes)",
        measured=False,
    )
    nodes: str | None = _option(
        str,
        None,
        "spread ranks over this many nodes; or the names of the nodes, as in n1,n2, of which each"
        " launch takes as few as it fits on",
    )
    ranks_per_node: int | None = _option(
        int,
        None,
        "the most ranks on one node (default: one per GPU; CPU ranks: one per core)",
        at_least=1,
    )
    engine_command: str | None = _option(
        str,
        None,
        "the command that starts a program on {node}, as in 'ssh {node}'; for slurm and mpirun,"
        " srun or mpirun with more arguments",
        measured=False,
    )
    interface: str | None = _option(
        str,
        None,
        "network interface between nodes (default: the one that the route leads to)",
    )
    against: str | None = _option(
        str,
        None,
        "measure every case also in another environment and compare: an interpreter, a virtual"
        " environment's folder, or a requirement as torch==2.9.1; NAME=... names it",
    )
    against_path: str | None = _option(
        str, None, "folder that is first on sys.path of the other side, as another checkout"
    )
    against_env: tuple[str, ...] = _option(
        tuple, (), "environment variable NAME=VALUE of the other side; repeatable", repeated=True
    )
    against_limits: tuple[str, ...] = _option(
        tuple,
        (),
        "fail where the other side is worse by more, as METRIC=LIMIT: throughput=-3%",
        measured=False,
    )
    framework_options: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    effect: float | None = None
    """With --dnn-launches auto the change to detect; `launches` is planned before the first
    round."""
    ini_limits: tuple[str, ...] = ()
    """The limits of the ini file: those of the command line come before them, limit by limit."""

    def on(self, device: str) -> Settings:
        """These settings on this kind of device: what the user has left open is decided. All
        defaults that depend on the device are here, but those of `form` and `timed`.

        On CUDA they are the form that people measure: images of 224 pixels in bf16, 128 of them per
        GPU where all models of the session are the suite's image classifiers.
        """
        cuda = device == "cuda"
        large = cuda and self.dataset != "mnist"
        many = cuda and all(MODELS.get(name) in IMAGE_CLASSIFIERS for name in self.models)
        return replace(
            self,
            image_size=self.image_size or (IMAGENET_IMAGE_SIZE if large else MNIST_IMAGE_SIZE),
            batch_size=self.batch_size or (128 if many else 32),
            precision=self.precision or ("bf16" if cuda else "fp32"),
        )

    def form(self, device: str, path: str, taken: Collection[str] = FORM_FIELDS) -> StepForm:
        """The form of a step on this kind of device, of the model behind "module:factory" and of a
        framework that takes these fields of it. On CUDA the suite's models, which all have images,
        are in channels_last by default, where the framework takes that."""
        chosen = {name: getattr(self, name) for name in FORM_FIELDS}
        images = path in IMAGE_CLASSIFIERS
        by_default = device == "cuda" and images and "memory_format" in taken
        chosen["memory_format"] = chosen["memory_format"] or (
            CHANNELS_LAST if by_default else CONTIGUOUS
        )
        return StepForm(**chosen)

    def timed(self, device: str) -> Length:
        """How long a launch on this kind of device is timed."""
        if self.steps is not None or self.window is not None:
            return self.steps or self.window or 0
        return TIMED_STEPS if device == "cpu" else TIMED_ON_GPU

    def timed_function(self, device: str) -> tuple[Length, int | None]:
        """How long a launch of a timed function is timed, and with how many steps at most."""
        if self.steps is not None or self.window is not None:
            return self.timed(device), None
        return FUNCTION_ON_CPU if device == "cpu" else FUNCTION_ON_GPU, MOST_FUNCTION_STEPS

    @property
    def has_other_side(self) -> bool:
        """Whether cases are measured in two environments."""
        return self.against is not None or self.against_path is not None or bool(self.against_env)

    @property
    def profiles(self) -> bool:
        """Whether each launch profiles a few more steps."""
        return self.breakdown or self.traces is not None

    @property
    def rounds(self) -> int:
        """Launches of each case in this session."""
        return self.launches * (self.calibrate or 1)

    def counts(self, available: int) -> tuple[int, ...]:
        """The device counts to run on: --dnn-gpu-counts, or the powers of two up to --gpus, and
        --gpus itself."""
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


OPTIONS = tuple(
    Option(row.name.replace("_", "-"), **row.metadata) for row in fields(Settings) if row.metadata
)

# `effect` shows in the launches that were planned for it; `parallel` counts only under -n, where
# nothing is continued.
NOT_MEASURED = {"effect", "ini_limits"} | {
    option.name.replace("-", "_") for option in OPTIONS if not option.measured
}
"""Fields that change nothing in what is measured: they may differ when a session is continued."""


def add_options(parser: pytest.Parser, options: Iterable[Option]) -> None:
    """Registers options and their ini twins with pytest. Raises UsageError for a flag that is
    already there."""
    group = parser.getgroup("dnnbench", "benchmarks of distributed training")
    for option in options:
        about: dict[str, Any] = {"dest": option.key, "default": None}
        if option.kind is bool:
            about |= {"action": "store_true", "help": option.about}
        elif option.repeated:
            about |= {"action": "append", "metavar": "X", "help": option.help}
        else:
            about |= {"metavar": "X", "help": option.help.replace("%", "%%")}
        if option.without_value is not None:
            about |= {"nargs": "?", "const": option.without_value}
        try:
            group.addoption(option.flag, **about)
        except ValueError as error:
            raise UsageError(f"{option.flag} ({option.about}) cannot be added: {error}") from None
        parser.addini(option.key, option.about, type=_ini_type(option), default=None)


def framework_options(frameworks: Iterable[FrameworkSpec]) -> list[Option]:
    """One option per flag: the variants of a framework share theirs, and the first of them names
    it."""
    rows: dict[str, Option] = {}
    for framework in frameworks:
        for row in framework.options:
            about = f"{framework.name}: {row.about}"
            option = Option(row.flag, type(row.default), row.default, about, row.choices)
            rows.setdefault(row.flag, option)
    return list(rows.values())


def read_settings(config: pytest.Config, catalog: Catalog) -> Settings:
    """The settings of this session. Raises UsageError for any bad value, before anything starts."""
    values = {option.key.removeprefix("dnn_"): _value(config, option) for option in OPTIONS}
    if values["gpu_counts"] is not None:
        values["gpu_counts"] = tuple(_count(text) for text in values["gpu_counts"])
    _choose_rounds(config, values)
    values["launches"], values["effect"] = _launches(values["launches"])
    values["warmup"] = as_warmup(values["warmup"], "--dnn-warmup")
    _choose_steps_or_window(config, values)
    limits = next(option for option in OPTIONS if option.name == "limits")
    values["limits"] = limits.parse(config.getoption(limits.key) or ())
    values["ini_limits"] = limits.parse(config.getini(limits.key) or ())
    settings = Settings(**values, framework_options=_read_framework_options(config, catalog))
    _check(settings, catalog)
    return settings


def _read_framework_options(
    config: pytest.Config, catalog: Catalog
) -> dict[str, dict[str, Scalar]]:
    frameworks = catalog.frameworks.values()
    by_flag = {option.name: option for option in framework_options(frameworks)}
    return {
        framework.name: {row.name: _value(config, by_flag[row.flag]) for row in framework.options}
        for framework in frameworks
        if framework.options
    }


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
            "--dnn-launches auto needs --dnn-baseline: launches are planned from the noise of"
            " stored sessions; add --dnn-baseline latest, or give a number of launches"
        )
    if settings.anchor is not None and settings.baseline is None:
        raise UsageError(
            "--dnn-anchor needs --dnn-baseline: an anchor is judged beside the latest sessions; add"
            " --dnn-baseline latest"
        )
    if settings.accept is not None and not settings.accept.strip():
        raise UsageError("--dnn-accept is empty: write why the change is right")
    if (settings.dataset == "text") != bool(settings.text):
        raise UsageError(
            "--dnn-dataset text and --dnn-text FILE need each other: the file's bytes are the"
            f" tokens; --dnn-dataset is {settings.dataset}"
        )
    if settings.dataset == "mnist" and not settings.data_dir:
        raise UsageError(
            "--dnn-dataset mnist needs --dnn-data-dir: the folder with the MNIST files"
        )
    if settings.dataset == "mnist" and settings.image_size not in (BY_DEVICE, MNIST_IMAGE_SIZE):
        raise UsageError(
            f"--dnn-image-size is {settings.image_size}: MNIST's images have {MNIST_IMAGE_SIZE}"
            " pixels a side"
        )


def _value(config: pytest.Config, option: Option) -> Any:
    places = {
        "": config.getoption(option.key),
        f"{option.key} in the ini file": config.getini(option.key),
    }
    for place, given in places.items():
        if given is not None and given != "":
            return option.parse(given, place)
    return option.default


def _choose_steps_or_window(config: pytest.Config, values: dict[str, Any]) -> None:
    """Lets one of --dnn-steps and --dnn-window stand: that of the command line, where the other is
    the ini file's. Raises UsageError where both are in the same place."""
    if values["window"] is not None:
        values["window"] = as_seconds(values["window"], "--dnn-window")
    if values["steps"] is None or values["window"] is None:
        return
    on_line = [name for name in ("steps", "window") if config.getoption(f"dnn_{name}") is not None]
    if len(on_line) != 1:
        raise UsageError(
            f"--dnn-steps {values['steps']} and --dnn-window {values['window']} both say how long"
            " to time: leave one of them out"
        )
    values["window" if on_line == ["steps"] else "steps"] = None


def _choose_rounds(config: pytest.Config, values: dict[str, Any]) -> None:
    """With two environments and no number of launches: the most rounds that are made to compare
    them. What confirms a verdict stays as many launches as without."""
    two_sides = any(values[name] for name in ("against", "against_path", "against_env"))
    is_given = any(ask("dnn_launches") is not None for ask in (config.getoption, config.getini))
    if two_sides and not is_given:
        values["launches"] = MOST_ROUNDS
        if values["confirm"] is None:
            values["confirm"] = DEFAULT_LAUNCHES


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"--dnn-gpu-counts {text!r} is not a count: write whole numbers from 1, as in 1,2,4"
        )
    return int(text)


def _launches(text: str) -> tuple[int, float | None]:
    """The launches, and with auto the change to detect; the launches are the fewest then."""
    if auto := _AUTO.fullmatch(str(text)):
        percent = float(auto["percent"] or 100 * EFFECT)
        if not 0 < percent < 100:
            raise UsageError(
                f"--dnn-launches {text}: a change to detect lies between 0% and 100%, as in auto:3%"
            )
        return DEFAULT_LAUNCHES, percent / 100
    try:
        count = int(text)
    except ValueError:
        raise UsageError(
            f"--dnn-launches {text!r} is not a number: write a number such as 5, auto, or auto:3%"
        ) from None
    if count < 1:
        raise UsageError(f"--dnn-launches is {count}: it must be at least 1")
    return count, None


def _ini_type(option: Option) -> Any:
    if option.ini or option.repeated:
        return option.ini or "linelist"
    # Text is read by Option.parse, whose message names the option; pytest's would not. In TOML a
    # number may be a number.
    types = {int: int | str, float: float | int | str, bool: bool | str}
    return types.get(option.kind, "string")
