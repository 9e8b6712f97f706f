"""What crosses the boundary between the pytest process and the ranks: frozen records of plain data.

    pytest process ──Place, RunRequest──> rank        a step of training
    pytest process ──Place, FunctionRequest──> rank        the fixture's `time`
    pytest process <──PlanDecision, PredictedStep, Correctness, RankReport── rank    as MessagePack

    pytest process ──Place, PipelineRequest──> rank        the fixture `pipeline_stages`
    pytest process <──StageReport── rank

No torch here. Not here: how a rank is started and how its answer is framed (frames.py).
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.mnist_files import MnistFiles
from pytest_dnnbench.planner.plan import Plan
from pytest_dnnbench.run_length import Length
from pytest_dnnbench.step_parts import Part
from pytest_dnnbench.text_file import TextFile

Sample = Literal["img", "tok", "sample", "step", "B"]
"""What a sample is: an image, a token, anything else; of a timed function also a step or a byte.
Throughput has the unit SAMPLE/s."""

Target = tuple[str, str, str | None]
"""Module, qualified name and file of what ranks import by themselves. The file serves where the
module cannot be imported by its name."""


@dataclass(frozen=True, slots=True)
class Place:
    """One rank's place in its launch.

    `device` is "cpu" or "cuda:INDEX"; `threads` the compute threads of this rank; `rendezvous` the
    path of the file store in which the ranks of a launch meet; `timeout_s` bounds every collective.
    `launch_variables` are the environment variables that this launch alone has, as the port of its
    rendezvous. `gpu_uuid` is that of the leased GPU, empty on CPU ranks; `sharing` ranks of the
    launch, this one too, have that GPU.

    Of a launch over several nodes, `node` names this rank's, with `local_rank` of
    `local_world_size` ranks on it, and `store` is the address and port of the store in which the
    ranks meet instead of a file; rank 0 listens there, on `store_descriptor`. On one machine all
    ranks are local ones: `local_world_size` 0 says so.
    """

    rank: int
    world_size: int
    device: str
    threads: int
    rendezvous: str
    timeout_s: float
    launch_variables: tuple[str, ...] = ()
    gpu_uuid: str = ""
    node: str = ""
    local_rank: int = 0
    local_world_size: int = 0
    store: tuple[str, int] | None = None
    store_descriptor: int | None = None
    sharing: int = 1


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What every rank of a launch has to do.

    worker    the framework's "module:Class"
    model     "module:factory": the pytest process has looked the case's model up in its catalog
    steps     how long the timed steps are: a number of them, or seconds as "5s" (run_length.py)
    warmup    how long the untimed steps before them are: a number, seconds, or "auto"
    data      where real images are; None: synthetic ones
    text      the file whose bytes are the tokens; None: synthetic ones
    plan      what the framework's planning returned on rank 0, the same for the proof and for all
              launches, as plain data: that of a PlanDecision for our pipelines; None without a
              planning step
    recheck   whether the outputs of the timed model are checked after the timed steps
    yardstick whether the rank measures its GPU's own speed after everything else
    profiled  whether a few more steps run after the timed ones, under torch's profiler
    traces    where the ranks write the profiler's traces: a path to which each adds its rank; None:
              nowhere

    A workload without an optimiser of its own is trained by SGD with these settings, in every
    framework.
    """

    case: Case
    worker: str
    model: str
    steps: Length
    warmup: Length
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    data: MnistFiles | None = None
    plan: Any = None
    profiled: bool = False
    traces: str | None = None
    recheck: bool = False
    text: TextFile | None = None
    yardstick: bool = False


@dataclass(frozen=True, slots=True)
class FunctionRequest:
    """What every rank of a launch has to do to time a function.

    function, check     what is called and what checks it; None without a check
    unit                what the numbers count that a step returns
    steps, warmup       as of a RunRequest
    most_steps          the most timed steps where `steps` are seconds; None: no limit
    worker, plan        as of a RunRequest; nothing is planned
    yardstick           as of a RunRequest
    profiled, traces    as of a RunRequest
    """

    case: FunctionCase
    function: Target
    check: Target | None
    steps: Length
    warmup: Length
    unit: Sample = "sample"
    most_steps: int | None = None
    worker: str = "pytest_dnnbench.rank.timed_function:FunctionStepper"
    plan: Any = None
    yardstick: bool = False
    profiled: bool = False
    traces: str | None = None


TimedRequest = RunRequest | FunctionRequest


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """The plan of a pipeline case, and who decided it.

    `bandwidth_bytes_s` is the bandwidth between two ranks that the plan assumes;
    `profile_parts_over_whole` is far from 1 where the profile was taken on a busy machine;
    `runtime_s` is what torch's runtime takes itself with each pass of its schedules, None on GPUs
    and for our own pipelines. All are None where the user gave a plan.
    """

    plan: Plan
    decided_by: Literal["user", "planner"]
    bandwidth_bytes_s: float | None = None
    profile_parts_over_whole: float | None = None
    runtime_s: float | None = None


@dataclass(frozen=True, slots=True)
class PredictedStep:
    """What a step of a case should take, from what was measured before the launches: a profile, a
    rank's step alone, and what the framework adds.

    compute_s      forward and backward passes; `exposed_s` communication that no compute hides;
                   `update_s` the update of the weights. All are seconds of one step
    memory_bytes   of a rank: weights, gradients, optimiser's state, activations, buffers
    overlaps       whether compute hides communication
    collectives    by name, what one takes: seconds, and bytes per second of the whole tensor; none
                   where the framework's step was timed as a whole
    profile_parts_over_whole    far from 1 where the profile was taken on a busy machine
    refused        why there is no prediction; empty where there is one
    """

    compute_s: float = 0.0
    exposed_s: float = 0.0
    update_s: float = 0.0
    memory_bytes: float = 0.0
    overlaps: bool = True
    collectives: dict[str, tuple[float, float]] = field(default_factory=dict)
    profile_parts_over_whole: float | None = None
    refused: str = ""

    @property
    def step_s(self) -> float:
        """Seconds of the whole step."""
        return self.compute_s + self.exposed_s + self.update_s


@dataclass(frozen=True, slots=True)
class Correctness:
    """How far one rank's step is from the reference, before anything is timed.

    deviations    by check ("parameters", "gradients", "buffers", ...), the largest over all tensors
                  of max |rank's - reference's| / max(1, max |reference's|)
    tolerances    the same keys; the step is right when every deviation is finite and within its own
    failures      what is wrong; empty when the step is right
    about         how the step was checked, for the record
    checked       what was checked without a figure of how far it deviates
    """

    deviations: dict[str, float]
    tolerances: dict[str, float]
    failures: tuple[str, ...] = ()
    about: dict[str, Scalar] = field(default_factory=dict)
    checked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """One rank of a pipeline: the plan that it ran, what the plan predicts, what its stage needed.

    predicted_step_time_s                  of the job under this plan
    predicted_data_parallel_step_time_s    of the same job under pure data parallelism
    stage, replica                         which part of the plan this rank ran, both from 0
    versions_kept                          most versions of the stage's weights at any time
    version_bytes                          of one version
    stash_bytes                            of all versions but one, at the peak
    planned_memory_bytes                   of one replica of the stage, as the planner estimates it
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
class OperatorTime:
    """What one operator takes of a profiled step: the seconds that count as `part`, and the calls
    of this operator, whatever they count as. An empty name: the host between operators."""

    part: Part
    name: str
    self_s: float
    calls: float


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One rank's profiled steps, which come after the timed ones and are slower.

    steps       steps of the whole job that were profiled
    step_s      seconds of one by the host's clock
    parts_s     seconds of one by part (step_parts.py), on the profiler's time line
    operators   the longest first; not all of them
    trace       the path of the trace; empty without one
    trouble     why a trace that was wanted is not written; empty otherwise
    """

    steps: int
    step_s: float
    parts_s: dict[Part, float]
    operators: tuple[OperatorTime, ...] = ()
    trace: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one rank measured in one launch. Times are seconds of the machine's monotonic clock.

    window_start_s    when the timed window opened: after the last warm-up step, the device
                      synchronised
    step_end_s        when each timed step of this rank was complete; `step_index` numbers these
                      steps over the whole job, from 0
    window_end_s      when the device was synchronised after this rank's last timed step
    step_samples      samples that this rank completed in each of its timed steps
    sample            what a sample is
    shared_samples    whether all ranks count the same samples, done together, and the job counts
                      them once; else each rank counts its part
    bus_factor        bytes on a link for a byte of samples, of a collective (collectives.py); None
                      for anything else
    cpu_energy_j      what the machine's packages used during the window, from rank 0 on CPU ranks,
                      where the kernel lets it read that; else None
    samples_per_update    samples, over all ranks, that one update of the weights averages over; of
                      a collective its size in bytes, of another function 0
    page_faults       pages that the kernel gave to the process inside the window
    loss              of every step of the run, warm-up included; empty on a rank that sees no loss
    validation        right answers and samples of this rank's share of the validation set
    metrics           by name (metrics.py): the memory peaks inside the window, and the framework's
                      own figures. The row of a metric says how the ranks' figures are combined.
    details           the framework's own facts, for the record
    pipeline          plan and memory of this rank's stage; None where the framework is no pipeline
    fingerprint       of the weights that all ranks must hold alike; empty where there are none
    own_work_s        of each timed step but the first, how long this rank needed no other rank;
                      empty where the framework does not mark it
    suspended_s       how long the machine slept between the first warm-up step and the end of the
                      window
    warmup_steps      steps of the whole job before the window, in `warmup_s` seconds on this rank
    steady            whether the warm-up ended with steps that took equally long; None where its
                      length was given and left no two stretches of steps to compare
    clock_s           the rank's clock before the timed run and after its window, to be held against
                      another clock; (0, 0) where that is not to be done
    profile           of the steps after the timed ones; None where none was asked for
    yardstick_s       seconds of the yardstick of this rank's GPU; None where it was not measured
    began_s           when the rank's first phase began
    phases_s          the seconds of each of its phases (rank_status.py) until it reported

    Memory peaks are metrics like all others: a report has no field for them.
    """

    rank: int
    window_start_s: float
    window_end_s: float
    step_index: tuple[int, ...]
    step_end_s: tuple[float, ...]
    step_samples: tuple[int, ...]
    samples_per_update: int
    sample: Sample = "img"
    shared_samples: bool = False
    bus_factor: float | None = None
    cpu_energy_j: float | None = None
    page_faults: int = 0
    loss: tuple[float, ...] = ()
    validation: tuple[int, int] | None = None
    data: dict[str, Scalar] = field(default_factory=dict)
    environment: dict[str, Scalar | None] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)
    pipeline: PipelineFacts | None = None
    fingerprint: str = ""
    suspended_s: float = 0.0
    own_work_s: tuple[float, ...] = ()
    warmup_steps: int = 0
    warmup_s: float = 0.0
    steady: bool | None = None
    clock_s: tuple[float, float] = (0.0, 0.0)
    profile: StepProfile | None = None
    yardstick_s: float | None = None
    began_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sample not in get_args(Sample):
            raise UsageError(
                f"a sample of the framework is {self.sample!r}: let Worker.sample be one of"
                f" {', '.join(get_args(Sample))}"
            )


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """The link between two ranks on different nodes over a backend of torch.distributed: bytes per
    second of transfers of `size_bytes` from the first rank to the second, and back; half of the
    round trip of a word, seconds."""

    ranks: tuple[int, int]
    backend: str
    size_bytes: int
    forth_bytes_s: float
    back_bytes_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class NodeSpeed:
    """What a preflight measured on the rank of one node: the seconds of the node's yardstick, each
    time, and the links that this rank timed."""

    yardstick_s: tuple[float, ...]
    links: tuple[LinkSpeed, ...]


@dataclass(frozen=True, slots=True)
class PipelineRequest:
    """A pipeline to run on ranks: a model, how it is cut and replicated, and its training rule.

    `model` is "module:factory": of a model, or of a function without parameters that returns the
    list of stages. `operators` names the operators of each stage; None cuts evenly. `dtype` is the
    name of a torch type.
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
    """What one rank of a pipeline holds after its runs.

    `parameters` and `buffers` are the newest ones, by the model's own names, as NumPy arrays;
    `losses` are pairs of a minibatch and its loss, on the last stage.
    """

    stage: int
    replica: int
    parameters: dict[str, Any]
    buffers: dict[str, Any]
    losses: tuple[tuple[int, float], ...]
    versions_kept: int
    bubble_fraction: float | None
