"""torchvision's classifiers under `pipedream` on two CPU ranks: each is planned, cut, proven and
timed for two steps.

What lives here: the launches of one model, and what became of it. Not here: which models there are
and what can be said of them in one process (torchvision_models.py).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError
from pytest_dnnbench.messages import Correctness, Place, PlanDecision, RankReport, RunRequest
from pytest_dnnbench.planner.options import forced_layout
from pytest_dnnbench.planner.predict import even_plan
from pytest_dnnbench.rank.profiling.profiler import Effort, profile_workload
from pytest_dnnbench.rank.proof.conditions import ProofCopies, check_room_ahead
from pytest_dnnbench.rank.workloads.checks import model_of
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.results.records.measurement import Launch, check_times
from pytest_dnnbench.results.records.rank_agreement import agree

LEAST_SIZE = {
    "inception_v3": 96,
    **dict.fromkeys(("maxvit_t", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"), 224),
    **dict.fromkeys((f"vgg{layers}{bn}" for layers in (11, 13, 16, 19) for bn in ("", "_bn")), 32),
    "alexnet": 64,
}
"""Pixels a side that a model needs at least, where it does not take MNIST's images."""

TIMEOUT_S = 3600.0
"""Of a launch: a large model's proof takes long on a busy machine."""

IMAGES = 4
"""In a minibatch of the timed steps, and of the profile."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one model: the shape of its plan, the largest deviation in its proof as a part
    of its bound, and the seconds of all that; or why it did not run."""

    name: str
    size: int
    seconds: float
    shape: str = ""
    of_bound: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        of_bound = "" if self.reason else f"{self.of_bound:.2f}"
        return (
            f"{self.name:20} {self.size:4} {self.seconds:6.0f} {self.shape:5} {of_bound:5}"
            f" {self.reason}"
        )


def outcomes(models: Sequence[str], size: int, stages: str) -> Iterator[Outcome]:
    """Runs the models on images of `size` pixels, or as large as they need, in so many stages: 2,
    or 1 with two replicas."""
    with ForkServer() as server:
        ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=TIMEOUT_S)
        for name in models:
            case = Case(
                "pipedream",
                name,
                2,
                "train",
                batch_size=IMAGES,
                image_size=max(size, LEAST_SIZE.get(name, 0)),
                options={"stages": stages},
            )
            yield _outcome(ranks, case)


def _outcome(ranks: Ranks, case: Case) -> Outcome:
    """Plans, proves and times one case."""
    catalog, start = Catalog(), time.monotonic()
    worker = catalog.framework(case.framework).worker
    request = RunRequest(case, worker, catalog.model(case.model), steps=2, warmup=1)
    shape, of_bound, reason = "", 0.0, ""
    try:
        decision: PlanDecision = ranks.launch("benchmarks.torchvision_ranks:decide", request)[0]
        shape, request = decision.plan.shape, replace(request, plan=decision)
        proofs: list[Correctness] = ranks.launch(PROVE, request, returns=Correctness)
        of_bound = _of_bound(agree(case, proofs).largest_deviation, agree(case, proofs).tolerance)
        reports: list[RankReport] = ranks.launch(MEASURE, request, returns=RankReport)
        check_times(case, Launch(tuple(reports)))
    except DnnbenchError as error:
        reason = str(error)
    seconds = time.monotonic() - start
    return Outcome(case.model, case.image_size, seconds, shape, of_bound, reason)


def _of_bound(deviations: dict[str, float], tolerances: dict[str, float]) -> float:
    """The largest part of its bound that any kind of tensor uses up."""
    parts = [deviates / tolerances[kind] for kind, deviates in deviations.items() if deviates]
    return max(parts, default=0.0)


def decide(place: Place, request: RunRequest) -> PlanDecision | None:
    """As rank.pipeline.planning:decide, from a profile of one repetition: where exactly a model is
    cut is no matter here."""
    if place.rank:
        return None
    case, workload = request.case, workload_of(request)
    copies = ProofCopies.of_pipeline(case.phase)
    check_room_ahead(request.model, lambda: model_of(workload), place, copies)
    profile = profile_workload(
        workload,
        request.model,
        case.image_size,
        case.batch_size,
        case.precision,
        "cpu",
        effort=Effort(0, 1),
    )
    layout = forced_layout(case.options, place.world_size)
    assert layout is not None, "a case has a number of stages"
    return PlanDecision(even_plan(profile, layout.replicas).require_feasible(), "user")
