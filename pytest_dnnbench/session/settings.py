"""The options of a session: each field of `Settings` is an option, and its row (option.py) gives
the command line, the ini file, the help text and the checks.

Below the pytest boundary nothing sees pytest's config, only the frozen Settings that
settings_reading.py makes of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace

from pytest_dnnbench.case import (
    DATASETS,
    IMAGENET_IMAGE_SIZE,
    MNIST_IMAGE_SIZE,
    PRECISIONS,
    SCALINGS,
    Scalar,
)
from pytest_dnnbench.catalog.models import DEFAULT_MODELS, IMAGE_CLASSIFIERS, TORCHVISION_MODELS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.statistics.paired import MOST_ROUNDS
from pytest_dnnbench.run_length import (
    AUTO,
    FUNCTION_ON_CPU,
    FUNCTION_ON_GPU,
    MOST_FUNCTION_STEPS,
    MOST_SECONDS,
    TIMED_ON_GPU,
    TIMED_STEPS,
    Length,
)
from pytest_dnnbench.session.option import Option, choice, option
from pytest_dnnbench.shape import shapes_of
from pytest_dnnbench.step_form import (
    CHANNELS_LAST,
    COMPILE_MODES,
    CONTIGUOUS,
    FORM_FIELDS,
    MEMORY_FORMATS,
    StepForm,
)

BY_DEVICE = 0
"""Of a number: the user has not said, so the kind of device decides (Settings.on); an empty text
says the same."""

DEFAULT_LAUNCHES = 3
"""Of each case, where the user gives no number; MOST_ROUNDS (statistics/paired.py) where there are
two environments to compare."""
EFFECT = 0.05
"""The change that --dnn-launches auto is to detect, unless it says which."""

MOST_SEED = 2**32 - 1
"""NumPy takes no larger seed. A rank's own lies a little above it, which torch takes."""

MOST_RANKS = 1_000_000
"""More than any machine has."""

ALL = "all"
"""Stands for every framework of the catalog, also those that do not run by default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The options in force, parsed and checked; every value is the user's or the default."""

    gpus: int | None = option(
        int,
        None,
        "run cases on 1, 2, 4, ... up to this many devices (default: all GPUs; CPU: 2)",
        at_least=1,
        at_most=MOST_RANKS,
    )
    gpu_counts: tuple[int, ...] | None = option(
        tuple, None, "run cases on exactly these device counts instead, as in 1,3"
    )
    device: str = choice(
        "auto", "auto takes CUDA where there is any, else CPU ranks", ("auto", "cuda", "cpu")
    )
    frameworks: tuple[str, ...] | None = option(
        tuple,
        None,
        "frameworks to measure; all adds the variants (default: one of each kind)",
    )
    shapes: tuple[str, ...] = option(
        tuple,
        (),
        "parallel shapes to measure, each on its number of devices, as in dp4,tp2xdp2,pp4 (default:"
        " each framework's own)",
    )
    models: tuple[str, ...] = option(
        tuple, DEFAULT_MODELS, "models to measure; package.module:factory names your own"
    )
    dataset: str = choice("synthetic", "where samples come from: text takes --dnn-text", DATASETS)
    data_dir: str | None = option(str, None, "folder with the MNIST files")
    download: bool = option(
        bool, False, "let torchvision fetch MNIST into --dnn-data-dir", measured=False
    )
    image_size: int = option(
        int,
        BY_DEVICE,
        "pixels a side; 28 gives MNIST's form, any other size ImageNet's (default: 28 on CPU ranks,"
        " 224 on GPUs)",
        at_least=1,
    )
    text: str | None = option(str, None, "file whose bytes are the tokens of --dnn-dataset text")
    sequence_length: int = option(
        int, 0, "tokens in a sample of a model of tokens; 0 leaves it to the model", at_least=0
    )
    batch_size: int = option(
        int,
        BY_DEVICE,
        "samples per GPU and step; under strong scaling, of all GPUs together (default: 32; on"
        " GPUs 128 for the suite's image classifiers)",
        at_least=1,
    )
    scaling: str = choice(
        "weak", "whether --dnn-batch-size is per GPU (weak) or for all GPUs (strong)", SCALINGS
    )
    precision: str = choice(
        "",
        "fp32 is IEEE; tf32 needs a GPU; bf16 is autocast (default: fp32 on CPU ranks, bf16 on"
        " GPUs)",
        PRECISIONS,
    )
    memory_format: str = choice(
        "",
        "of images and of the weights of convolutions (default: contiguous on CPU ranks; on GPUs"
        " channels_last for the suite's image classifiers)",
        MEMORY_FORMATS,
    )
    compile: str = choice(
        "",
        "compile the step with torch.compile, in this mode; without a mode: default",
        COMPILE_MODES,
        without_value=COMPILE_MODES[0],
    )
    fused: bool = option(bool, False, "update all weights in one kernel, the optimiser's fused")
    checkpointing: bool = option(
        bool, False, "compute activations inside a block again instead of keeping them"
    )
    accumulate: int = option(
        int, 1, "minibatches of a rank whose gradients one update averages", at_least=1
    )
    cudnn_benchmark: bool = option(bool, False, "let cuDNN try its algorithms (GPUs only)")
    cuda_graph: bool = option(
        bool,
        False,
        "capture the step as a CUDA graph, and launch its kernels together (single on GPUs only)",
    )
    ranks_per_gpu: int = option(
        int,
        1,
        "ranks that share a GPU, to prove cases of several ranks on few GPUs; their speed means"
        " nothing",
        at_least=1,
    )
    launches: int = option(
        str,
        DEFAULT_LAUNCHES,
        "launches of each case in fresh processes, interleaved over the cases; auto or auto:3%"
        " plans as many as detect such a change (5%) under the noise of --dnn-baseline; with"
        f" --dnn-against the most rounds, {MOST_ROUNDS} if not given",
        ini=int | str,
    )
    steps: int | None = option(
        int,
        None,
        f"timed steps of a launch (default: {TIMED_STEPS} on CPU ranks; on GPUs --dnn-window"
        f" {TIMED_ON_GPU})",
        at_least=1,
    )
    window: str | None = option(
        str, None, "time steps for at least so long instead, in seconds, as in 5s"
    )
    warmup: int | str = option(
        str,
        AUTO,
        "steps to run before the timed ones, or seconds, as in 2s; auto runs until steps take"
        " equally long",
        ini=int | str,
    )
    timeout: float = option(
        float,
        600.0,
        "seconds that one launch may take",
        at_least=1,
        at_most=MOST_SECONDS,
        measured=False,
    )
    progress: str = choice(
        "auto",
        "show what runs now: auto shows it unless pytest is quiet",
        ("auto", "on", "off"),
        measured=False,
    )
    report: str | None = option(
        str, None, "folder for a page, plots and tables of the session", measured=False
    )
    breakdown: bool = option(
        bool,
        False,
        "profile a few more steps after the timed ones of each launch, and show what a step's time"
        " goes into",
        measured=False,
    )
    traces: str | None = option(
        str,
        None,
        "folder for the traces of profiled steps (Chrome's format), a file per rank; implies"
        " --dnn-breakdown",
        measured=False,
    )
    predict: bool = option(
        bool,
        False,
        "predict before the launches of a case what a step should take, from a profile and the"
        " collectives of its ranks",
        measured=False,
    )
    prediction_error: float | None = option(
        str,
        None,
        "fail a case whose step takes longer, or less long, than predicted by more than this, as in"
        " 20%; implies --dnn-predict",
        measured=False,
    )
    github: str = choice(
        "auto",
        "annotations and the job's summary on GitHub Actions; auto writes them where"
        " GITHUB_ACTIONS is true",
        ("auto", "on", "off"),
        measured=False,
    )
    parallel: bool = option(
        bool,
        False,
        "under pytest-xdist's -n, time cases side by side on disjoint devices; see the docs",
        measured=False,
    )
    resume: bool = option(
        bool, False, "run what an interrupted session has left to do, and merge", measured=False
    )
    lease_timeout: float = option(
        float,
        3600.0,
        "seconds that a launch may wait for devices in use",
        at_least=0,
        at_most=MOST_SECONDS,
        measured=False,
    )
    seed: int = option(int, 0, "seed of weights, data and shuffling", at_least=0, at_most=MOST_SEED)
    baseline: str | None = option(
        str,
        None,
        "compare with this baseline: latest, a NAME or NUMBER in the storage, or a file",
        measured=False,
    )
    anchor: str | None = option(
        str,
        None,
        "compare with this fixed reference too, which a slow decline leaves: first (sessions of the"
        " storage), a NAME or NUMBER in it, or a file",
        measured=False,
    )
    compare_across: tuple[str, ...] = option(
        tuple,
        (),
        "environment facts allowed to differ from the baseline's, as in driver,torch",
        measured=False,
        adds_up=True,
    )
    require_baseline: bool = option(
        bool, False, "fail every case that has no usable baseline", measured=False
    )
    limits: tuple[str, ...] = option(
        tuple,
        (),
        "limits as METRIC=LIMIT, as in throughput=-5%,allocated_peak_bytes<=6GiB",
        measured=False,
        adds_up=True,
    )
    confirm: int | None = option(
        int,
        None,
        "fresh launches before a case fails; 0 makes none (default: --dnn-launches)",
        at_least=0,
        measured=False,
    )
    false_alarms: float = option(
        float,
        0.01,
        "accepted false-alarm rate: the fraction of sessions that may fail although nothing"
        " changed",
        at_least=1e-9,
        measured=False,
    )
    accept: str | None = option(
        str,
        None,
        "take this session as a baseline although it is worse; the reason goes on record",
        measured=False,
    )
    calibrate: int | None = option(
        int,
        None,
        "measure as many launches of each case as this many sessions, to learn its noise",
        at_least=2,
    )
    engine: str | None = option(
        str,
        None,
        "how processes are started on nodes: prefix, slurm, mpirun, or none to stay on this machine"
        " (default: slurm inside an allocation of several nodes)",
        measured=False,
    )
    nodes: str | None = option(
        str,
        None,
        "spread ranks over this many nodes; or the names of the nodes, as in n1,n2, of which each"
        " launch takes as few as it fits on",
    )
    ranks_per_node: int | None = option(
        int,
        None,
        "the most ranks on one node (default: one per GPU; CPU ranks: one per core)",
        at_least=1,
    )
    engine_command: str | None = option(
        str,
        None,
        "the command that starts a program on {node}, as in 'ssh {node}'; for slurm and mpirun,"
        " srun or mpirun with more arguments",
        measured=False,
    )
    interface: str | None = option(
        str,
        None,
        "network interface between nodes (default: the one that the route leads to)",
    )
    path: str | None = option(
        str,
        None,
        "folder that is first on sys.path of the ranks, as a checkout to measure; that of side A,"
        " where there is another side",
    )
    preflight: str = choice(
        "on",
        "measure nodes and the links between them before the first case of a session on several"
        " nodes",
        ("on", "off"),
        measured=False,
    )
    against: str | None = option(
        str,
        None,
        "measure every case also in another environment and compare: an interpreter, a virtual"
        " environment's folder, or a requirement as torch==2.9.1; NAME=... names it",
    )
    against_path: str | None = option(
        str, None, "folder that is first on sys.path of the other side, as another checkout"
    )
    against_env: tuple[str, ...] = option(
        tuple, (), "environment variable NAME=VALUE of the other side; repeatable", repeated=True
    )
    against_limits: tuple[str, ...] = option(
        tuple,
        (),
        "fail where the other side is worse by more, as METRIC=LIMIT: throughput=-3%",
        measured=False,
        adds_up=True,
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
        many = cuda and all(
            TORCHVISION_MODELS.get(name) in IMAGE_CLASSIFIERS for name in self.models
        )
        return replace(
            self,
            image_size=self.image_size or (IMAGENET_IMAGE_SIZE if large else MNIST_IMAGE_SIZE),
            batch_size=self.batch_size or (128 if many else 32),
            precision=self.precision or ("bf16" if cuda else "fp32"),
        )

    def form(self, device: str, path: str, takes: Collection[str] = FORM_FIELDS) -> StepForm:
        """The form of a step on this kind of device, of the model behind "module:factory" and of a
        framework that takes these fields of it. On CUDA the suite's image classifiers are in
        channels_last by default, where the framework takes that."""
        values = {name: getattr(self, name) for name in FORM_FIELDS}
        images = path in IMAGE_CLASSIFIERS
        by_default = device == "cuda" and images and "memory_format" in takes
        values["memory_format"] = values["memory_format"] or (
            CHANNELS_LAST if by_default else CONTIGUOUS
        )
        return StepForm(**values)

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
    def predicts(self) -> bool:
        """Whether steps are predicted."""
        return self.predict or self.prediction_error is not None

    @property
    def rounds(self) -> int:
        """Launches of each case in this session."""
        return self.launches * (self.calibrate or 1)

    def counts(self, available: int) -> tuple[int, ...]:
        """The device counts to run on: --dnn-gpu-counts, or the powers of two up to --gpus, and
        --gpus itself; without both those of --dnn-shapes."""
        if self.gpu_counts is not None:
            return self.gpu_counts
        if self.shapes and self.gpus is None:
            return tuple(sorted({shape.gpus for shape in shapes_of(self.shapes)}))
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
