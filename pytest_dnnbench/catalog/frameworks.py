"""The built-in frameworks, each a row. Nothing that a row points to is imported here.

Not here: what the fields of a row mean (framework_spec.py), and how a row is found (lookup.py)."""

from pytest_dnnbench.catalog.framework_spec import FrameworkOption, FrameworkSpec
from pytest_dnnbench.catalog.models import IMAGE_CLASSIFIERS

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
_RULES = "pytest_dnnbench.catalog.framework_rules"
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
        fits="pytest_dnnbench.planner.options:stages_fit",
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
        fits="pytest_dnnbench.planner.synchronous:schedule_fits",
        rules=f"{_RULES}:torch_schedule",
        planning="pytest_dnnbench.rank.pipeline.planning:decide_synchronous",
        by_default=False,
        min_gpus=2,
        options=(*_PIPELINE_OPTIONS, *options, _STAGE_REPLICAS),
        axes=_PIPELINES,
        forms=_PIPELINE_FORMS,
        form_reasons=_PIPELINE_REASONS,
    )


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
        rules=f"{_RULES}:ddp",
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
        prediction=_PREDICTION,
        requires=("horovod",),
        install="dnnbench horovod",
        preload=("horovod.torch", "pytest_dnnbench.rank.frameworks.horovod"),
        rendezvous="pytest_dnnbench.controller.horovod_rendezvous:horovod_rendezvous",
        rules=f"{_RULES}:horovod",
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
        rules=f"{_RULES}:fsdp",
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
        prediction=_PREDICTION,
        preload=("pytest_dnnbench.rank.frameworks.tp",),
        fits="pytest_dnnbench.shape:splits_evenly",
        rules=f"{_RULES}:tensor_parallel",
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
