"""What crosses the boundary between the pytest process and the ranks: frozen records of plain data,
no torch.

controller ── Place, RunRequest ──> rank
controller <── Correctness, RankReport ── rank
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.mnist_files import MnistFiles
from pytest_dnnbench.planner.plan import Plan


@dataclass(frozen=True, slots=True)
class Place:
    """Where one rank stands in its launch.

    `device` is "cpu" or "cuda:INDEX"; `threads` the compute threads of this rank; `rendezvous` the
    path of the file store that the ranks of one launch meet in; `timeout_s` bounds every
    collective.
    """

    rank: int
    world_size: int
    device: str
    threads: int
    rendezvous: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What every rank of a launch is asked to do.

    `worker` is the framework's "module:Class"; `model` what `rank.models.build_model` takes: a name
    of the suite or "module:factory". `steps` are timed after `warmup` untimed ones. The optimiser
    is SGD with these settings, the same for every framework. `data` says where real images lie;
    None for synthetic ones. `plan` is what the framework's planning has decided, once for the proof
    and all launches; plain data, None without such a step.
    """

    case: Case
    worker: str
    model: str
    steps: int
    warmup: int
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    data: MnistFiles | None = None
    plan: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Correctness:
    """What one rank saw when its step was held against the reference, before anything is timed.

    `deviations` maps a check ("parameters", "gradients", "buffers", ...) to the largest absolute
    deviation over all elements, divided by the largest absolute value of the reference's tensor or
    1, whichever is larger; `tolerances` holds the same keys. `passed` is true when every deviation
    is finite and within its tolerance. `failures` names what was wrong, worst first. `about` says
    how it was checked, for the record.
    """

    deviations: dict[str, float]
    tolerances: dict[str, float]
    failures: tuple[str, ...] = ()
    about: dict[str, Scalar] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the step that is about to be timed is right."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """The plan of a pipeline, and who decided it.

    `bandwidth_bytes_s`, and `profile_parts_over_whole`, far from 1 where the profile was taken on a
    busy machine, are None where a plan was given.
    """

    plan: Plan
    decided_by: Literal["user", "planner"]
    bandwidth_bytes_s: float | None
    profile_parts_over_whole: float | None


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """What a rank of a pipeline reports of the plan, and of the stage that it ran.

    `versions_kept` of the weights, each of `version_bytes`; `stash_bytes`: of all versions beyond
    the newest. `planned_memory_bytes` counts weights, activations, gradients and momentum.
    """

    decision: PlanDecision
    shape: str
    parallelism: Literal["data", "pipeline"]
    predicted_step_time_s: float
    predicted_data_parallel_step_time_s: float
    stage: int
    replica: int
    versions_kept: int
    version_bytes: int
    stash_bytes: int
    planned_memory_bytes: float


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one rank measured in one launch. Times are seconds of the machine's monotonic clock.

    `window_start_s` is when the timed window opened, after the last warm-up step, the device
    synchronised; `step_end_s[i]` when timed step `step_index[i]` was complete; `window_end_s` when
    the device was synchronised after the last. `step_samples[i]` counts the samples that this rank
    completed in it; `sample` is the unit of a sample: img, tok or sample. `page_faults` counts the
    pages that the kernel gave to the process inside the window. `loss` holds one value per step of
    the run, warm-up included, on ranks that see a loss. `validation` counts correct and all samples
    of this rank's share of the validation set. `metrics` are the peaks of memory inside the window
    and the framework's own measured quantities, by their names in metrics.py, where each row says
    how the ranks' figures become the job's. `details` are the framework's own facts, `pipeline`
    those of a rank of a pipeline. `fingerprint` is of the weights that all ranks of the job must
    hold alike; empty where there are none. `own_work_s` is how long this rank needed no other in
    each timed step but the first; empty where it does not report it. `suspended_s` is how long the
    machine slept between the start of the warm-up and the end of the timed window.
    """

    rank: int
    window_start_s: float
    window_end_s: float
    step_index: tuple[int, ...]
    step_end_s: tuple[float, ...]
    step_samples: tuple[int, ...]
    samples_per_update: int
    page_faults: int = 0
    loss: tuple[float, ...] = ()
    validation: tuple[int, int] | None = None
    data: dict[str, Scalar] = field(default_factory=dict)
    environment: dict[str, Scalar | None] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)
    fingerprint: str = ""
    suspended_s: float = 0.0
    own_work_s: tuple[float, ...] = ()
    sample: str = "img"
    pipeline: PipelineFacts | None = None


@dataclass(frozen=True, slots=True)
class PipelineRequest:
    """A pipeline to be run on ranks: a model, how it is cut and replicated, and by which rule it is
    trained.

    `model` is what `rank.models.build_model` takes, or "module:factory" of a function without
    parameters that gives the list of stages. `operators` names each stage's operators; None cuts
    evenly. `dtype` is a name of torch's.
    """

    model: str
    replicas: tuple[int, ...]
    variant: str = "pipedream"
    microbatches: int = 1
    vertical_sync: bool = False
    operators: tuple[tuple[str, ...], ...] | None = None
    image_size: int = 28
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dtype: str = "float32"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one rank of a pipeline holds after its runs: its newest parameters and buffers, by the
    model's own names, as NumPy arrays; the loss of each minibatch it completed, on the last stage;
    the versions it kept."""

    stage: int
    replica: int
    parameters: dict[str, Any]
    buffers: dict[str, Any]
    losses: tuple[tuple[int, float], ...]
    versions_kept: int
    bubble_fraction: float | None
