"""The schedules of torch.distributed.pipelining: what each needs, and which ranks run which stages.
No torch here.

A pipeline has P ranks, and R replicas of it run side by side: ranks in P groups of R, numbered
group by group, as in a Layout of P stages. A rank holds v stages of the model, where v is above 1
in a loop or as a V; P = 3, v = 2:

    loop    rank 0: stages 0, 3     rank 1: stages 1, 4     rank 2: stages 2, 5
    V       rank 0: stages 0, 5     rank 1: stages 1, 4     rank 2: stages 2, 3

All of them make one update per batch of M microbatches, of which each replica runs every R-th: what
they compute is gradient accumulation, as `pipedream-flush` does. Sources: GPipe (Huang et al.,
NeurIPS 2019), 1F1B and interleaved stages (Narayanan et al., SC 2021), breadth first (Lamy-Poirier,
MLSys 2023), zero bubbles and the V (Qi et al., ICLR 2024), DualPipeV (DeepSeek-AI, 2025). Not here:
the order of passes, which is torch's own; the cuts (predict.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.planner.layout import Layout, layout_of, stages_in
from pytest_dnnbench.planner.options import AUTO, Options, check_pipeline_options, plan_file
from pytest_dnnbench.planner.plan import read_plan
from pytest_dnnbench.planner.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Rule:
    """What one of torch's schedules needs.

    torch_class        its name in torch.distributed.pipelining
    shape              how the stages lie on the ranks
    stages_per_rank    None: the user chooses, and 2 are the default
    least              microbatches of a replica, per rank of its pipeline, at least; 0: any
    rounds             the microbatches of a replica have to divide into equal rounds, each of at
                       least one per rank
    one_at_a_time      a replica has one microbatch: its ranks work one after the other
    """

    torch_class: str
    shape: Literal["loop", "v"] = "loop"
    stages_per_rank: int | None = None
    least: int = 0
    rounds: bool = False
    one_at_a_time: bool = False


RULES: Mapping[str, Rule] = {
    "mp": Rule("ScheduleGPipe", stages_per_rank=1, one_at_a_time=True),
    "gpipe": Rule("ScheduleGPipe", stages_per_rank=1),
    "1f1b": Rule("Schedule1F1B", stages_per_rank=1, least=1),
    "interleaved": Rule("ScheduleInterleaved1F1B", least=1, rounds=True),
    "bfs": Rule("ScheduleLoopedBFS"),
    "zero-bubble": Rule("ScheduleInterleavedZeroBubble", least=1, rounds=True),
    "zbv": Rule("ScheduleZBVZeroBubble", "v", stages_per_rank=2, least=1),
    "dualpipev": Rule("ScheduleDualPipeV", "v", stages_per_rank=2, least=2),
}
"""By the name of the framework."""

_STAGES_PER_RANK = 2


@dataclass(frozen=True, slots=True)
class Pipelines:
    """Replicated pipelines under one of torch's schedules.

    `ranks` run one pipeline, `stages_per_rank` stages each; `microbatches` make an update, over all
    `replicas`, which may share the weights of a stage out (`shares_out`). Raises PlanError for
    microbatches that the schedule cannot have.
    """

    framework: str
    ranks: int
    replicas: int
    stages_per_rank: int
    microbatches: int
    shares_out: bool = False

    def __post_init__(self) -> None:
        of_each, rest = divmod(self.microbatches, self.replicas)
        if rest or not of_each:
            raise PlanError(
                f"{self.microbatches} microbatches do not divide over {self.replicas} replicas of"
                f" the pipeline: give a multiple of {self.replicas}"
            )
        least = self.rule.least * self.ranks
        if of_each < least:
            raise PlanError(
                f"{self.framework} on pipelines of {self.ranks} ranks needs at least"
                f" {least * self.replicas} microbatches, not {self.microbatches}"
            )
        rounds = max(1, of_each // self.ranks)
        if self.rule.rounds and of_each % rounds:
            raise PlanError(
                f"{self.framework} runs {of_each} microbatches on {self.ranks} ranks in {rounds}"
                f" rounds, which do not come out even: give --dnn-microbatches"
                f" {of_each // self.ranks * self.ranks * self.replicas}"
            )

    @property
    def rule(self) -> Rule:
        """That of the framework."""
        return RULES[self.framework]

    @property
    def stages(self) -> int:
        """Of the model."""
        return self.ranks * self.stages_per_rank

    @property
    def layout(self) -> Layout:
        """Which rank of the job has which place in which replica."""
        return Layout((self.replicas,) * self.ranks)

    @property
    def microbatches_of_each(self) -> int:
        """Microbatches of one replica in an update."""
        return self.microbatches // self.replicas

    @property
    def additions(self) -> tuple[float, float]:
        """How often gradients of all weights of a stage are added up, in the backward pass of one
        microbatch and before the update. The first microbatch's are taken as they are; in the end
        torch divides, and copies are summed and divided once more for their mean."""
        copies = self.replicas > 1 and not self.shares_out
        return 1 - 1 / self.microbatches_of_each, 3.0 if copies else 1.0

    def stages_of(self, place: int) -> tuple[int, ...]:
        """The stages on one rank of a pipeline, in the order of the model."""
        if self.rule.shape == "v":
            return place, self.stages - 1 - place
        return tuple(range(place, self.stages, self.ranks))

    def place_of(self, stage: int) -> int:
        """The rank of a pipeline that holds a stage."""
        if self.rule.shape == "v":
            return min(stage, self.stages - 1 - stage)
        return stage % self.ranks

    def accumulation(self) -> Schedule:
        """What the pipelines compute, as a schedule of ours with as many stages: gradient
        accumulation, each replica with buffers of its own."""
        return Schedule(
            "pipedream-flush", Layout((self.replicas,) * self.stages), self.microbatches
        )


class _RanksDoNotFit(PlanError):
    """Another number of ranks would do."""


def schedule_fits(framework: str, ranks: int, options: Options) -> bool:
    """Whether a schedule runs on exactly `ranks` ranks.

    Raises PlanError for options that are wrong on any number of ranks, and for microbatches that
    are wrong on this number.
    """
    check_pipeline_options(options)
    _stages_per_rank(framework, options)
    try:
        pipelines_of(framework, ranks, options)
    except _RanksDoNotFit:
        return False
    return True


def pipelines_of(framework: str, ranks: int, options: Options) -> Pipelines:
    """The pipelines of a case. Raises PlanError for options that do not fit it, one replica that
    would share its weights out among them."""
    of_each = _stages_per_rank(framework, options)
    length = _length(framework, ranks, of_each, options)
    if length < 2:
        raise _RanksDoNotFit(
            f"{framework} on {ranks} ranks with {length} in each pipeline: a pipeline has at least"
            " two ranks"
        )
    replicas = ranks // length
    requested = int(options.get("microbatches", 0))
    rule = RULES[framework]
    shares_out = options.get("replicas", "copies") == "fsdp"
    if shares_out and replicas == 1:
        # By default all ranks make one pipeline, however many there are.
        every_number = not plan_file(options) and str(options.get("stages", AUTO)) == AUTO
        raise (PlanError if every_number else _RanksDoNotFit)(
            f"--dnn-schedule-replicas fsdp: {framework} makes one pipeline of {ranks} ranks, with"
            " no replica to share weights with: give --dnn-stages N for pipelines of N ranks, fewer"
            " than there are, or leave it out"
        )
    default = replicas * length * max(1, rule.least)
    microbatches = replicas if rule.one_at_a_time else requested or default
    return Pipelines(framework, length, replicas, of_each, microbatches, shares_out)


def _stages_per_rank(framework: str, options: Options) -> int:
    fixed, requested = RULES[framework].stages_per_rank, int(options.get("stages_per_rank", 0))
    if requested < 0:
        raise PlanError(
            f"--dnn-stages-per-rank is {requested}: give at least 1, or 0 for the default"
        )
    if fixed is None and requested == 1:
        raise PlanError(
            f"{framework} is for several stages per rank: give --dnn-stages-per-rank 2 or more, or"
            " use gpipe or 1f1b"
        )
    return fixed or requested or _STAGES_PER_RANK


def _length(framework: str, ranks: int, stages_per_rank: int, options: Options) -> int:
    """The ranks of one pipeline: of the user's plan or shape; by default all."""
    shape = str(options.get("stages", AUTO))
    if path := plan_file(options):
        replicas = read_plan(path).require_feasible().replicas
        return _even(f"plan {path}", framework, replicas, stages_per_rank, ranks)
    if shape == AUTO:
        return ranks
    numbers = stages_in(shape)
    if len(numbers) > 1:
        return _even(f"stages {shape}", framework, numbers, 1, ranks)
    try:
        return len(layout_of(shape, ranks).replicas)
    except PlanError as error:
        raise _RanksDoNotFit(str(error)) from None


def _even(
    what: str, framework: str, replicas: tuple[int, ...], stages_per_rank: int, ranks: int
) -> int:
    if len(set(replicas)) > 1 or len(replicas) % stages_per_rank:
        per_rank = f" and {stages_per_rank} stages per rank" if stages_per_rank > 1 else ""
        raise PlanError(
            f"{what} does not fit {framework}, which needs as many replicas of every stage"
            f"{per_rank}: give a number of stages"
        )
    length = len(replicas) // stages_per_rank
    if length * replicas[0] != ranks:
        raise _RanksDoNotFit(
            f"{what} takes {length * replicas[0]} ranks, not {ranks}: change one of them"
        )
    return length
