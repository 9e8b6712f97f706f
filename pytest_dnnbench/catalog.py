"""What can be named in a case: frameworks and models, each a row. Nothing that a row points to is
imported here."""

import difflib
import importlib.machinery
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import GROUPS
from pytest_dnnbench.shape import AXES, Shape
from pytest_dnnbench.step_form import StepForm, check_form


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
    can be, or raises UsageError. `planning`, where something has to be decided once for all
    launches of a case, is "module:function": called on the ranks with place and RunRequest before
    the proof; what it returns on rank 0 becomes RunRequest.plan. `prediction`, where a step can be
    predicted, is called alike, and returns a PredictedStep on rank 0. A framework that is not
    `by_default` runs when it is named.

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
        """Raises UsageError for an option that it does not have, or of a value that none has."""
        rows = {row.name: row for row in self.options}
        for name, value in sorted(options.items()):
            if name not in rows:
                choices = f"choose from {', '.join(rows)}" if rows else "it has none"
                raise UsageError(f"{self.name} has no option {name!r}: {choices}")
            if not rows[name].takes(value):
                raise UsageError(
                    f"{self.name}'s option {name!r} is {value!r}: give {rows[name].wanted}"
                )


_WHOLE_MODEL = (
    "memory_format", "compile", "fused", "checkpointing", "accumulate", "cudnn_benchmark",
)  # fmt: skip
"""The forms of frameworks whose ranks hold the whole model."""

_SHARED_OUT_REASONS = {
    "memory_format": "the parts of the weights that ranks hold are laid out in rows",
    "compile": "torch compiles the model as a whole, and ranks hold parts of it",
}
_PIPELINE_FORMS = ("memory_format", "fused", "cudnn_benchmark")
_PIPELINE_REASONS = {
    "compile": "a stage runs a traced graph, whose weights change from one pass to the next",
    "checkpointing": "a stage may hold newer weights by the time it would run a block again",
    "accumulate": "pipelines have an option of their own for that, --dnn-microbatches, where their"
    " schedule averages several",
}

_PREDICTION = "pytest_dnnbench.rank.prediction:predict"
_MOST_MIB, _MOST_MS = 1e6, 1e6
"""Far beyond any use, and what is made of them is still a number to the libraries."""
_REPLICAS = {"dp": ""}
_PIPELINES = {"pp": "stages", **_REPLICAS}

_PIPELINE_OPTIONS = (
    FrameworkOption(
        "stages", "stages", "auto", "how many, or replicas of each as in 2-1; auto asks the planner"
    ),
    FrameworkOption(
        "plan", "plan", "", "file of a plan to run, as `dnnbench plan --json` writes it"
    ),
    FrameworkOption(
        "bandwidth",
        "bandwidth",
        0.0,
        "bytes per second between two ranks, for the planner; 0: measure",
    ),
)
_MICROBATCHES = FrameworkOption(
    "microbatches",
    "microbatches",
    0,
    "microbatches that one update averages; 0: one per rank, or more where the schedule needs them",
)
_STAGES_PER_RANK = FrameworkOption(
    "stages_per_rank",
    "stages-per-rank",
    0,
    "stages of the model on each rank, where the schedule leaves it open; 0: two",
)

_STAGE_REPLICAS = FrameworkOption(
    "replicas",
    "schedule-replicas",
    "copies",
    "whether replicas of a stage hold copies or share their weights out (FSDP2)",
    ("copies", "fsdp"),
)

_RESHARD = FrameworkOption(
    "reshard",
    "fsdp-reshard",
    "auto",
    "free a block's weights after its forward pass; auto keeps the root's",
    ("auto", "yes", "no"),
)


def _pipedream(
    variant: str, about: str, option: FrameworkOption, *, by_default: bool = False
) -> FrameworkSpec:
    return FrameworkSpec(
        variant,
        "pytest_dnnbench.rank.frameworks.pipedream:PipeDreamWorker",
        about,
        preload=("pytest_dnnbench.rank.frameworks.pipedream",),
        fits="pytest_dnnbench.planner.options:fits",
        planning="pytest_dnnbench.rank.pipeline.planning:decide",
        by_default=by_default,
        options=(*_PIPELINE_OPTIONS, option),
        axes=_PIPELINES,
        forms=_PIPELINE_FORMS,
        form_reasons=_PIPELINE_REASONS,
    )


def _torch_schedule(
    name: str,
    about: str,
    options: tuple[FrameworkOption, ...] = (_MICROBATCHES, _STAGES_PER_RANK),
) -> FrameworkSpec:
    return FrameworkSpec(
        name,
        "pytest_dnnbench.rank.frameworks.torch_pipeline:TorchPipelineWorker",
        f"torch.distributed.pipelining: {about}",
        fits="pytest_dnnbench.planner.synchronous:fits",
        planning="pytest_dnnbench.rank.pipeline.planning:decide_synchronous",
        by_default=False,
        min_gpus=2,
        options=(*_PIPELINE_OPTIONS, *options, _STAGE_REPLICAS),
        axes=_PIPELINES,
        forms=_PIPELINE_FORMS,
        form_reasons=_PIPELINE_REASONS,
    )


_OF_ANY_SIZE = """
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m
    efficientnet_v2_s googlenet mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
    mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
    regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf
    regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf
    resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t
    wide_resnet101_2 wide_resnet50_2
"""
"""torchvision's classifiers that take MNIST's images and all larger ones."""

_OF_LARGE_IMAGES = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
    densenet169 densenet201 inception_v3 maxvit_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn
    vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32
"""
"""Those that take images of 224 pixels, and of 28 not."""

OF_ANY_SIZE = frozenset(f"torchvision.models:{name}" for name in _OF_ANY_SIZE.split())
OF_LARGE_IMAGES = frozenset(f"torchvision.models:{name}" for name in _OF_LARGE_IMAGES.split())

IMAGE_CLASSIFIERS = OF_ANY_SIZE | OF_LARGE_IMAGES
"""The suite's models of images."""

_SPLITS = (
    "it splits the linear layers of transformers, and this model has convolutions: use one as"
    " vit_b_16, swin_t, convnext_tiny or gpt-tiny"
)
_WITHOUT_TRANSFORMERS = frozenset(
    path
    for path in IMAGE_CLASSIFIERS
    if not path.partition(":")[2].startswith(("vit_", "swin_", "convnext_", "maxvit_"))
)

FRAMEWORKS = (
    FrameworkSpec(
        "single",
        "pytest_dnnbench.rank.frameworks.single:SingleWorker",
        "plain PyTorch on one device: what speed-up is measured against",
        prediction=_PREDICTION,
        max_gpus=1,
        axes=_REPLICAS,
        forms=(*_WHOLE_MODEL, "cuda_graph"),
    ),
    FrameworkSpec(
        "ddp",
        "pytest_dnnbench.rank.frameworks.ddp:DdpWorker",
        "torch.nn.parallel.DistributedDataParallel: data parallel",
        prediction=_PREDICTION,
        options=(
            FrameworkOption(
                "find_unused_parameters",
                "ddp-find-unused",
                False,
                "look in every step for parameters without a gradient",
            ),
            FrameworkOption(
                "bucket_mb",
                "ddp-bucket-mb",
                25.0,
                "MiB of gradients that are exchanged together",
                at_least=1e-6,  # a byte
                at_most=_MOST_MIB,
            ),
            FrameworkOption(
                "static_graph",
                "ddp-static-graph",
                False,
                "the same parameters get gradients in every step",
            ),
            FrameworkOption(
                "gradient_as_bucket_view",
                "ddp-bucket-view",
                False,
                "gradients lie in the buckets, without a copy",
            ),
            FrameworkOption(
                "hook",
                "ddp-hook",
                "none",
                "what of gradients is exchanged: a smaller type (bf16 needs CUDA), or matrices of"
                " low rank",
                ("none", "fp16", "bf16", "powersgd"),
            ),
            FrameworkOption(
                "powersgd_rank",
                "ddp-powersgd-rank",
                1,
                "of the matrices that powersgd exchanges",
                at_least=1,
            ),
            FrameworkOption(
                "sync_batchnorm",
                "ddp-sync-batchnorm",
                False,
                "batch normalisation over the samples of all ranks; needs CUDA",
            ),
        ),
        axes=_REPLICAS,
        forms=_WHOLE_MODEL,
    ),
    FrameworkSpec(
        "horovod",
        "pytest_dnnbench.rank.frameworks.horovod:HorovodWorker",
        "horovod.torch, the real library: data parallel",
        requires=("horovod",),
        install="dnnbench horovod",
        preload=("horovod.torch", "pytest_dnnbench.rank.frameworks.horovod"),
        rendezvous="pytest_dnnbench.controller.horovod_rendezvous:horovod_rendezvous",
        options=(
            FrameworkOption(
                "fusion_threshold_mb",
                "horovod-fusion-mb",
                128.0,
                "MiB of gradients fused into one exchange",
                at_least=0,
                at_most=_MOST_MIB,
            ),
            FrameworkOption(
                "cycle_time_ms",
                "horovod-cycle-ms",
                1.0,
                "milliseconds between two rounds of exchange",
                at_least=0,
                at_most=_MOST_MS,
            ),
            FrameworkOption(
                "compression",
                "horovod-compression",
                "none",
                "of exchanged gradients",
                ("none", "fp16"),
            ),
            FrameworkOption(
                "op", "horovod-op", "average", "how gradients are combined", ("average", "adasum")
            ),
            FrameworkOption(
                "backward_passes_per_step",
                "horovod-passes",
                1,
                "backward passes per exchange and update",
                at_least=1,
            ),
        ),
        axes=_REPLICAS,
        forms=_WHOLE_MODEL,
    ),
    FrameworkSpec(
        "fsdp",
        "pytest_dnnbench.rank.frameworks.fsdp:FsdpWorker",
        "torch.distributed.fsdp.fully_shard (FSDP2): sharded data parallel",
        prediction=_PREDICTION,
        preload=("pytest_dnnbench.rank.frameworks.fsdp",),
        by_default=False,
        axes=_REPLICAS,
        forms=("fused", "checkpointing", "accumulate", "cudnn_benchmark"),
        form_reasons=_SHARED_OUT_REASONS,
        options=(
            _RESHARD,
            FrameworkOption(
                "param_dtype",
                "fsdp-param-dtype",
                "none",
                "type of the weights in forward and backward pass; none keeps theirs",
                ("none", "bf16"),
            ),
            FrameworkOption(
                "reduce_dtype",
                "fsdp-reduce-dtype",
                "none",
                "type in which gradients are averaged; none keeps theirs",
                ("none", "bf16", "fp32"),
            ),
            FrameworkOption(
                "reduce",
                "fsdp-reduce",
                "each",
                "with --dnn-accumulate: average gradients in each backward pass, or in the last"
                " alone, and keep whole ones until then",
                ("each", "last"),
            ),
        ),
    ),
    FrameworkSpec(
        "tp",
        "pytest_dnnbench.rank.frameworks.tp:TpWorker",
        "torch.distributed.tensor.parallel: tensor parallel",
        preload=("pytest_dnnbench.rank.frameworks.tp",),
        fits="pytest_dnnbench.shape:splits_evenly",
        axes={"tp": "ranks", **_REPLICAS},
        by_default=False,
        options=(
            FrameworkOption(
                "ranks",
                "tp-ranks",
                0,
                "ranks that split each layer, where the others make replicas; 0: all",
            ),
            FrameworkOption(
                "replicas",
                "tp-replicas",
                "fsdp",
                "whether replicas share their weights out or hold copies",
                ("fsdp", "copies"),
            ),
            FrameworkOption(
                "sequence", "tp-sequence", False, "share the sequence out between split layers"
            ),
            _RESHARD,
        ),
        refuses=dict.fromkeys(_WITHOUT_TRANSFORMERS, _SPLITS),
        forms=("fused", "checkpointing", "accumulate"),
        form_reasons={
            "cudnn_benchmark": "each rank would choose algorithms of its own, and the layers that"
            " all of them hold would drift apart",
            **_SHARED_OUT_REASONS,
        },
    ),
    _pipedream(
        "pipedream",
        "our PipeDream: asynchronous pipeline with weight stashing and replicated stages",
        FrameworkOption(
            "vertical_sync",
            "vertical-sync",
            False,
            "all stages use weights of the same minibatches",
        ),
        by_default=True,
    ),
    _pipedream(
        "pipedream-2bw", "PipeDream-2BW: two versions of the weights, no drain", _MICROBATCHES
    ),
    _pipedream(
        "pipedream-flush",
        "PipeDream-Flush: a drain and one synchronous update per batch",
        _MICROBATCHES,
    ),
    _torch_schedule("mp", "the model's layers over ranks, one minibatch at a time", ()),
    _torch_schedule("gpipe", "all forwards, then all backwards"),
    _torch_schedule("1f1b", "one forward and one backward in turn"),
    _torch_schedule("interleaved", "1F1B, several stages per rank in a loop"),
    _torch_schedule("bfs", "several stages per rank in a loop, breadth first"),
    _torch_schedule("zero-bubble", "interleaved, with the weights' gradients in the bubbles"),
    _torch_schedule("zbv", "zero bubbles, two stages per rank placed as a V"),
    _torch_schedule("dualpipev", "DualPipeV: as zbv, forward and backward passes in pairs"),
)

OF_SHAPES = ("ddp", "tp", "1f1b")
"""What runs the shapes of a session whose user has named no frameworks: of each shape, one."""

TORCH_GROUP = FrameworkSpec(
    "torch", "", "torch.distributed's process group, for timed functions: no framework trains here"
)
"""Stands for torch in `Catalog.group`."""

MODELS: dict[str, str] = {
    path.partition(":")[2]: path for path in sorted(OF_ANY_SIZE | OF_LARGE_IMAGES)
}

_OF_RANK = {
    "gpt-nano": "gpt:nano",
    "gpt-tiny": "gpt:tiny",
    "gpt-mini": "gpt:mini",
    "gpt2-124m": "gpt:gpt2_124m",
    "gpt2-355m": "gpt:gpt2_355m",
    "gpt2-774m": "gpt:gpt2_774m",
    "gpt2-1558m": "gpt:gpt2_1558m",
    "llama-tiny": "llama:tiny",
    "llama-mini": "llama:mini",
    "llama2-7b": "llama:llama2_7b",
    "llama3-1b": "llama:llama3_1b",
    "llama3-8b": "llama:llama3_8b",
    "mlp": "mlp:small",
    "mlp-wide": "mlp:wide",
}

OWN_MODELS = {name: f"pytest_dnnbench.rank.{path}" for name, path in _OF_RANK.items()}
"""Our own: models of tokens, and plain layers. Each is a workload."""

DEFAULT_MODELS = ("resnet18", "resnet50", "resnext50_32x4d", "efficientnet_b0")


@dataclass(frozen=True, slots=True)
class Catalog:
    """The frameworks and models of one session: the built-in rows and those that other packages
    add."""

    frameworks: Mapping[str, FrameworkSpec] = field(
        default_factory=lambda: {row.name: row for row in FRAMEWORKS}
    )
    models: Mapping[str, str] = field(default_factory=lambda: {**MODELS, **OWN_MODELS})
    front: tuple[str, ...] = ()
    """Folders that the ranks have on `sys.path` before this process's."""

    def with_rows(
        self, frameworks: Iterable[FrameworkSpec], models: Mapping[str, str]
    ) -> "Catalog":
        """This catalog and more rows; a row of the same name replaces ours."""
        rows = {**self.frameworks, **{row.name: row for row in frameworks}}
        return replace(self, frameworks=rows, models={**self.models, **models})

    def behind(self, folder: str | None) -> "Catalog":
        """This catalog for ranks that have a folder first on `sys.path`; None: they have not."""
        return replace(self, front=(folder,) if folder else ())

    def framework(self, name: str) -> FrameworkSpec:
        """The row of a framework. Raises UsageError with the nearest names."""
        try:
            return self.frameworks[name]
        except KeyError:
            raise UsageError(
                f"unknown framework {name!r}: {_nearest(name, self.frameworks)}"
            ) from None

    def group(self, name: str) -> FrameworkSpec:
        """The library whose group of ranks a timed function runs in: "torch", or a framework with a
        group of its own. Raises UsageError."""
        if name not in GROUPS:
            raise UsageError(
                f"framework {name!r} has no group for a function to run in: choose from"
                f" {', '.join(GROUPS)}"
            )
        return TORCH_GROUP if name == TORCH_GROUP.name else self.framework(name)

    def model(self, name: str) -> str:
        """The "module:factory" behind a model's name, which may be one itself. Raises
        UsageError."""
        if name in self.models:
            return self.models[name]
        module, colon, factory = name.partition(":")
        if not colon:
            raise UsageError(f"unknown model {name!r}: {self._model_meant(name)}")
        if not all(part.isidentifier() for part in (*module.split("."), *factory.split("."))):
            raise UsageError(f"model {name!r} is not of the form package.module:factory")
        first = module.split(".")[0]
        ahead = importlib.machinery.PathFinder.find_spec(first, [*self.front])
        if ahead is None and importlib.util.find_spec(first) is None:
            raise UsageError(
                f"model {name!r}: no module {first!r} can be imported; is it on sys.path?"
            )
        return name

    def _model_meant(self, name: str) -> str:
        """What to write instead. There are too many names to list all of them in a line."""
        package, dot, factory = name.rpartition(".")
        if dot and all(part.isidentifier() for part in name.split(".")):
            return f"a factory stands behind a colon: write {package}:{factory}"
        if close := _close(name, self.models):
            return f"did you mean {' or '.join(close)}? Or write package.module:factory"
        return (
            f"give one of the suite's {len(self.models)}, such as a classifier of torchvision"
            " (resnet18) or a model of tokens (gpt-tiny), or package.module:factory"
        )


def _close(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = _close(name, known)
    return (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"choose from {', '.join(sorted(known))}"
    )
