"""One stage of a cut model as a module: tensors in, a tuple of tensors out, parameters under their
own names.

The stage holds the modules, parameters and buffers of the whole model that its operators call, at
the same paths: the `named_parameters` of all stages together are those of the model. Not here:
which operators are in a stage (cut.py), how a stage is trained (runtime.py).
"""

import copy
import operator
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from pytest_dnnbench.rank.pipeline.likeness import Likeness
from pytest_dnnbench.rank.profiling.fx_calls import constant_of

LIKENESS = "likeness"
"""Key of a node's `meta`: the stage holds a likeness of the weight, not the weight."""

SEPARATE: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "matmul")
}
"""Python's in-place operators and their counterparts that write to a new tensor."""


class StageModule(nn.Module):
    """`stage(*tensors)` returns a tuple of tensors: the inputs of the next stage, from the last
    stage the tensors of the model's output.

    An output may be an input that a later stage needs. Neither inputs nor outputs are changed in
    place. `operators` are the names of the stage's operators.
    """

    def __init__(
        self, model: nn.Module, training: fx.Graph, evaluation: fx.Graph, operators: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.operators = operators
        constants: dict[str, torch.Tensor] = {}
        for mode, graph in (("training", training), ("evaluation", evaluation)):
            for node in graph.find_nodes(op="get_attr"):
                self._hold(node, model, mode, constants)
        for node in training.find_nodes(op="call_module"):
            self._adopt(str(node.target), node.meta.get("module") or _at(model, node.target))
        for name, constant in constants.items():
            setattr(self, name, constant)
        self._forwards = {True: _compiled(training), False: _compiled(evaluation)}

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the stage's operators in program order, in the mode of the stage."""
        return self._forwards[self.training](self, *inputs)

    def _hold(
        self, node: fx.Node, model: nn.Module, mode: str, constants: dict[str, torch.Tensor]
    ) -> None:
        """Holds the tensor that a node of the graph of this mode stands for.

        A constant is a plain attribute, as it is in the forward: it moves to no other dtype. Each
        mode has its own.
        """
        constant = constant_of(node)
        if constant is not None:
            node.target = f"{mode}_{node.target}"
            constants[node.target] = constant
        elif node.meta.get(LIKENESS):
            name = f"{str(node.target).replace('.', '_')}_likeness"
            if not hasattr(self, name):
                self.add_module(name, Likeness(_at(model, node.target)))
            node.target = f"{name}.tensor"
        else:
            self._adopt(str(node.target), _at(model, node.target))

    def _adopt(self, path: str, what: nn.Module | torch.Tensor) -> None:
        """Holds a part of the model at its own path, under empty modules where the path has
        none."""
        *prefix, name = path.split(".")
        place: nn.Module = self
        for step in prefix:
            if not hasattr(place, step):
                place.add_module(step, nn.Module())
            place = getattr(place, step)
        if getattr(place, name, None) is what:
            return
        if isinstance(what, nn.Module):
            place.add_module(name, what)
        elif isinstance(what, nn.Parameter):
            place.register_parameter(name, what)
        else:
            place.register_buffer(name, what)


def _at(model: nn.Module, path: Any) -> Any:
    """The module, parameter or buffer at a path of the model."""
    return attrgetter(path)(model)


def _compiled(graph: fx.Graph) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The graph as a Python function of the module that holds its parts, and its inputs."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    # The source is torch.fx's own, of the line above.
    exec(compile(code.src, "<stage>", "exec"), namespace)  # noqa: S102
    return namespace["forward"]  # type: ignore[no-any-return] # the name that torch.fx gives it


def separate(node: fx.Node, model: nn.Module, overwritten: Iterator[fx.Node]) -> None:
    """Makes an in-place node write to a new tensor: by the operator's other form where it has one,
    else on a clone.

    `node` is in a stage's graph; `overwritten` are those of its inputs that it would change.
    """
    target: Any = node.target
    module = model.get_submodule(target) if node.op == "call_module" else None
    if module is not None and getattr(module, "inplace", False) and not module.state_dict():
        node.meta["module"] = copy.copy(module)
        node.meta["module"].inplace = False
        node.target = f"{target}_separate"
    elif node.op == "call_function" and target in SEPARATE:
        node.target = SEPARATE[target]
    elif node.op == "call_method" and target.endswith("_") and not target.endswith("__"):
        node.target = target.removesuffix("_")
    elif node.kwargs.get("inplace") is True:
        node.kwargs = {**node.kwargs, "inplace": False}
    else:
        _work_on_clones(node, overwritten)


def _work_on_clones(node: fx.Node, overwritten: Iterator[fx.Node]) -> None:
    for value in overwritten:
        with node.graph.inserting_before(node):
            node.replace_input_with(value, node.graph.call_function(torch.clone, (value,)))
