"""The graph of one stage: the part of a model's graph that the stage runs, and the values that
cross its two cuts.

A value that a stage makes and a later one needs travels through all stages between, once; so does
an input of the model, from the first stage, and a part of its output, to the last. A value that is
no tensor (a size) and one that depends on no input (a parameter by itself) does not travel:
each stage that needs it computes it again. Not here: which operators are in a stage (cut.py), the
stage as a module (stage_module.py).
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from pytest_dnnbench.errors import PlanError
from pytest_dnnbench.rank.pipeline.stage_module import LIKENESS, StageModule, separate
from pytest_dnnbench.rank.profiling.forward_region import (
    OUTSIDE,
    ForwardRegion,
    enter_region,
    leave_region,
    region_of,
)
from pytest_dnnbench.rank.profiling.fx_calls import returned
from pytest_dnnbench.rank.profiling.operator_graph import OperatorGraph
from pytest_dnnbench.rank.profiling.weights import is_metadata


class _Regions:
    """Enters and leaves, in the graph of a stage, the regions of the nodes that are added to it."""

    def __init__(self, part: fx.Graph) -> None:
        self._part = part
        self._present = OUTSIDE
        self._entered: fx.Node | None = None

    def change(self, region: ForwardRegion) -> None:
        """The nodes that follow run in this region."""
        if region == self._present:
            return
        if self._entered is not None:
            self._part.call_function(leave_region, (self._entered,))
            self._entered = None
        if region != OUTSIDE:
            arguments = (region.gradients, region.inference, region.autocasts)
            self._entered = self._part.call_function(enter_region, arguments)
        self._present = region


@dataclass(frozen=True, slots=True)
class StageBuilder:
    """Builds one stage. `home` maps each operator and item to its stage; the inputs come from
    outside, as from stage -1."""

    graph: OperatorGraph
    home: dict[str, int]
    index: int

    def stage(self) -> StageModule:
        """The stage, for training and evaluation."""
        operators = tuple(name for name in self.graph.operators if self.home[name] == self.index)
        training, evaluation = self._part(self.graph.training), self._part(self.graph.evaluation)
        return StageModule(self.graph.model, training, evaluation, operators)

    def _part(self, whole: fx.Graph) -> fx.Graph:
        """The stage's part of the training or evaluation graph."""
        part = fx.Graph()
        values: dict[fx.Node, fx.node.Argument] = {}
        for value in self._passing(whole, self.index):
            values[value] = self._take(part, value)
        inside = self._inside(whole)
        regions = _Regions(part)
        for node in whole.nodes:
            if node in inside:
                regions.change(region_of(node))
                copied = part.node_copy(node, values.__getitem__)
                values[node] = copied
                self._stand_in(node, copied, inside)
                self._keep_apart(node, copied, values)
        regions.change(OUTSIDE)
        part.output(tuple(self._hand_on(part, whole, values)))
        return part

    def _stand_in(self, node: fx.Node, copied: fx.Node, inside: set[fx.Node]) -> None:
        """Lets a stage that reads no more than the dtype or the size of a weight have a likeness of
        the weight: the weight itself belongs to another stage."""
        users = [user for user in node.users if user in inside]
        if node.op == "get_attr" and users and all(is_metadata(user) for user in users):
            copied.meta[LIKENESS] = True

    def _home_of(self, node: fx.Node) -> int | None:
        """The stage that makes a value that travels; None for a value that each stage computes
        again."""
        return -1 if node.op == "placeholder" else self.home.get(node.name)

    def _inside(self, whole: fx.Graph) -> set[fx.Node]:
        """The stage's operators, and the values that they need and that do not travel."""
        inside = {node for node in whole.nodes if self.home.get(node.name) == self.index}
        for node in reversed(whole.nodes):
            if node in inside:
                inside.update(
                    value for value in node.all_input_nodes if self._home_of(value) is None
                )
        return inside

    def _passing(self, whole: fx.Graph, index: int) -> list[fx.Node]:
        """The values that enter stage `index`, in program order: an earlier stage makes them, this
        stage or a later one needs them. The first stage takes all inputs."""
        if index == 0:
            return list(whole.find_nodes(op="placeholder"))
        needed = set(whole.output_node().all_input_nodes)
        for node in reversed(whole.nodes):
            late = self.home.get(node.name, -1) >= index
            if late or (node in needed and self._home_of(node) is None):
                needed.update(node.all_input_nodes)
        return [
            node
            for node in whole.nodes
            if node in needed and (home := self._home_of(node)) is not None and home < index
        ]

    def _take(self, part: fx.Graph, value: fx.Node) -> fx.node.Argument:
        parts = self.graph.observed[value.name].parts
        if parts is None:
            return part.placeholder(value.name)
        return tuple(part.placeholder(f"{value.name}_{number}") for number in range(parts))

    def _hand_on(
        self, part: fx.Graph, whole: fx.Graph, values: dict[fx.Node, fx.node.Argument]
    ) -> Iterator[fx.node.Argument]:
        last = self.index == max(self.home.values())
        for value in returned(whole) if last else self._passing(whole, self.index + 1):
            for tensor in self._tensors(part, value, values[value]):
                yield (
                    tensor if self._is_used_later(value) else part.call_method("detach", (tensor,))
                )

    def _tensors(
        self, part: fx.Graph, value: fx.Node, made: fx.node.Argument
    ) -> list[fx.node.Argument]:
        parts = self.graph.observed[value.name].parts
        if parts is None:
            return [made]
        if isinstance(made, tuple):
            return list(made)
        return [part.call_function(operator.getitem, (made, number)) for number in range(parts)]

    def _is_used_later(self, value: fx.Node) -> bool:
        """Whether a later operator takes the value itself. To a value that travels for its size no
        gradient returns, so it travels detached."""
        return any(
            user.op == "output" or self.home.get(user.name, -1) > self.index for user in value.users
        )

    def _keep_apart(
        self, node: fx.Node, copied: fx.Node, values: dict[fx.Node, fx.node.Argument]
    ) -> None:
        """Lets a node write to a new tensor, where the tensor that it would change comes from or
        goes to another stage."""
        named = {other.name: other for other in node.graph.nodes}
        changed = [named[name] for name in self.graph.observed[node.name].overwrites]
        if all(self._is_private(value) for value in changed):
            return
        direct = [value for value in changed if value in node.all_input_nodes]
        self._refuse_later_use(
            node, [value for value in changed if value.name != self._returned(node)]
        )
        separate(
            copied,
            self.graph.model,
            (made for value in direct if isinstance(made := values[value], fx.Node)),
        )

    def _returned(self, node: fx.Node) -> str | None:
        return self.graph.observed[node.name].returns

    def _is_private(self, value: fx.Node) -> bool:
        return self._home_of(value) == self.index and all(
            self._home_of(user) in (self.index, None) and user.op != "output"
            for user in value.users
        )

    def _refuse_later_use(self, node: fx.Node, changed: Sequence[fx.Node]) -> None:
        """Raises PlanError where a later operator uses a value that was changed behind its name,
        through a view: across a cut it would get the former value."""
        order = list(node.graph.nodes)
        after = set(order[order.index(node) + 1 :])
        for value in changed:
            if after.intersection(value.users):
                raise PlanError(
                    f"operator {node.name!r} changes {value.name!r} in place, which is used later,"
                    " and the two are cut apart: keep them in one stage, or write"
                    f" {node.name!r} out of place"
                )
