"""A step of tensor parallelism, timed in two parts for a prediction.

    shard       the rank's parts of the layers, forward, backward and update, in groups of ranks
                that exchange nothing
    exchange    the collectives of a real step, in their order, with nothing between them

Ranks that split a layer wait for each other within it, so no compute hides what they send: the
parts come one after the other. What replicas send each other may be hidden on GPUs, and is not
predicted there (prediction.py).

All ranks time at the same time, because that is how they train, and take the slowest rank's figure.
Not here: the steps of other frameworks (trial_steps.py).
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.planner.data_parallel import StepTime
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.frameworks.tp import TpWorker
from pytest_dnnbench.rank.timed_window import window_for
from pytest_dnnbench.rank.whole import part

WARMUPS, STEPS = 2, 7
USUAL = 0.02
"""Of the first weights of transformers."""

COLLECTIVES = {
    "_c10d_functional": {
        "all_reduce",
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
        "all_to_all_single",
        "broadcast",
    },
    "c10d": {"allreduce_", "_allgather_base_", "_reduce_scatter_base_", "broadcast_"},
}
"""By the namespace of torch's operators: those that send tensors."""


class SilentTpWorker(TpWorker):
    """A rank whose groups exchange nothing: it trains its parts alone, on what comes of them. Of
    sums it gets its own part, of parts that are scattered whatever lies in memory."""

    # torch takes meshes for equal by their ranks and these names, whatever their groups are, and
    # goes on with the one that it has seen first.
    axes = ("silent dp", "silent tp")

    @cached_property
    def mesh(self) -> DeviceMesh:
        """As TpWorker.mesh."""
        import torch.testing._internal.distributed.fake_pg  # registers the backend

        ranks = torch.arange(self.place.world_size).view(self.replicas, self.width)
        # Every rank makes every group, in one order: so each has the same name everywhere.
        columns, rows = (
            [dist.new_group(line.tolist(), backend="fake") for line in lines]
            for lines in (ranks.T, ranks)
        )
        groups = [columns[self.place.rank % self.width], rows[self.shard]]
        return DeviceMesh.from_group(groups, self.device.type, mesh=ranks, mesh_dim_names=self.axes)

    def wrap(
        self, module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """As TpWorker.wrap. Parts that the first rank would have scattered get numbers of a usual
        size: what lies in memory may be so small that a core takes many times as long for it."""
        wrapped = super().wrap(module, optimizer)
        with torch.no_grad():
            for parameter in module.parameters():
                if isinstance(parameter, DTensor):
                    nn.init.normal_(part(parameter), std=USUAL)
        return wrapped


@dataclass(frozen=True, slots=True)
class Form:
    """Of a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective as a step called it: torch's operator, and its arguments, in which a form stands
    for each tensor."""

    operator: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the operator, without its namespace."""
        return str(self.operator.name()).rpartition("::")[2].partition(".")[0]

    @property
    def size(self) -> int:
        """Bytes of its first tensors."""
        first = self.arguments[0]
        forms = [each for each in tree_leaves(first) if isinstance(each, Form)]
        return sum(form.shape.numel() * form.dtype.itemsize for form in forms)


class Noting(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's gap
    """Notes the collectives that run within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's gap
        self.exchanges: list[Exchange] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """As TorchDispatchMode's. Operators of tensors in parts come again for the parts."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        options = dict(kwargs or {})
        namespace, _, name = func.name().partition("::")
        if name.partition(".")[0] in COLLECTIVES.get(namespace, ()):
            self.exchanges.append(Exchange(func, _formed(args), _formed(options)))
        return func(*args, **options)


def _formed(tree: Any) -> Any:
    return tree_map_only(torch.Tensor, lambda t: Form(t.shape, t.dtype, t.device), tree)


def split_step(place: Place, request: RunRequest) -> tuple[StepTime, float]:
    """Both parts of a step of this case, and which share of the model's weights a rank holds. All
    ranks are in torch's process group."""
    time, held = shard_step(place, request)
    exchanged_s = _seconds_of(place, replaying(exchanges_of(place, request)))
    return replace(time, exposed_s=exchanged_s), held


def shard_step(place: Place, request: RunRequest) -> tuple[StepTime, float]:
    """A shard's step without the others, and the share of the weights in it."""
    worker = SilentTpWorker(place, request)
    worker.build()
    steps = worker.run(WARMUPS + STEPS)
    group.meet()
    step_s = _seconds_of(place, lambda: next(steps))
    update_s = min(step_s, _seconds_of(place, worker.update))
    held = held_by(worker)
    worker.give_up()
    return StepTime(step_s - update_s, 0.0, update_s), held


def held_by(worker: TpWorker) -> float:
    """Which share of the model's weights a rank holds."""
    parameters = list(worker.module.parameters())
    return sum(part(each).numel() for each in parameters) / sum(map(torch.numel, parameters))


def exchanges_of(place: Place, request: RunRequest) -> list[Exchange]:
    """The collectives of a step, in their order."""
    worker = TpWorker(place, request)
    worker.build()
    steps = worker.run(2)
    next(steps)  # what is done once
    noting = Noting()
    with noting:
        next(steps)
    worker.give_up()
    return noting.exchanges


def replaying(exchanges: Sequence[Exchange]) -> Callable[[], None]:
    """What runs these collectives, each once the one before it has ended. Tensors of one form are
    one tensor: a step has the memory of its largest ones, and here there is no more of it."""
    tensors: dict[Form, torch.Tensor] = {}

    def filled(tree: Any) -> Any:
        return tree_map_only(Form, lambda form: tensors[form], tree)

    for each in exchanges:
        for leaf in tree_leaves((each.arguments, each.options)):
            if isinstance(leaf, Form) and leaf not in tensors:
                tensors[leaf] = torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device)
    calls = [(each.operator, filled(each.arguments), filled(each.options)) for each in exchanges]

    def run() -> None:
        for operator, arguments, options in calls:
            for leaf in tree_leaves(operator(*arguments, **options)):
                if isinstance(leaf, torch.Tensor):
                    torch.ops._c10d_functional.wait_tensor(leaf)
                else:
                    leaf.wait()

    return run


def _seconds_of(place: Place, run: Callable[[], object]) -> float:
    """The median of a few runs, on the slowest rank."""
    for _ in range(WARMUPS):
        run()
    window = window_for(torch.device(place.device))
    window.begin()
    window.open()
    for _ in range(STEPS):
        run()
        window.mark()
    timing = window.close()
    ends_s = (timing.start_s, *timing.step_ends_s)
    seconds = [end_s - begin_s for begin_s, end_s in pairwise(ends_s)]
    median = torch.tensor(statistics.median(seconds), dtype=torch.float64)
    dist.all_reduce(median, dist.ReduceOp.MAX)
    return median.item()
