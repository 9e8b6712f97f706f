"""How the forward of a model becomes a graph: torch.fx's tracer, which runs the forward on
stand-ins for its values, and what is added to it.

- Leaves: which modules are called as a whole (see operator_graph.py).
- Sizes: control flow on them is followed. Sizes are known, because the tracer runs an example where
  one is asked for. What depends on the number of images, or on values, is refused.
- Types: control flow on them is followed where every pass takes the same way: that in the model's
  own types, the proof's in float64, and one under autocast.
- Items: `value[index] = part` becomes an operator that returns the changed value.
- Constants: tensors that the forward makes itself are kept beside the graph, not in the model.
- Regions: `no_grad` and `autocast` are noted beside each operator (forward_region.py).

Not here: which nodes are operators (operator_graph.py).
"""

import inspect
import linecache
import operator
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from pytest_dnnbench.rank.profiling.example_input import Example, rows
from pytest_dnnbench.rank.profiling.forward_region import RegionWatch
from pytest_dnnbench.rank.profiling.fx_calls import CONSTANT, fed, function_of, with_item
from pytest_dnnbench.rank.workloads import workload
from pytest_dnnbench.rank.workloads.image_models import widen, widened
from pytest_dnnbench.rank.workloads.model_copy import copied
from pytest_dnnbench.rank.workloads.structure import Structure, mapped, opened

SIZES = {"shape", "ndim", "size", "dim", "ndimension", "numel", "nelement", "__len__"}
"""Attributes and methods of a tensor that tell its size."""

TYPES = {"dtype", "is_floating_point", "is_complex", "element_size", "itemsize"}
"""Attributes and methods of a tensor that tell its type."""

METADATA = {
    *SIZES,
    *TYPES,
    *("device", "layout", "is_cuda", "get_device", "stride", "is_contiguous"),
}
"""Those that tell no value of the tensor."""

_OF_TYPES = (torch.finfo, torch.iinfo, torch.promote_types, torch.can_cast)
"""Functions of torch that tell something of types alone."""

_FACTORIES = (
    *("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros"),
    *("as_tensor", "full_like", "randint", "randperm", "tril_indices", "triu_indices"),
    *("finfo", "iinfo", "promote_types", "can_cast"),
)
"""Functions of torch that make a tensor from sizes, or tell something of types. They do not tell
the tracer of a stand-in among their arguments."""


_GAP_S = 1e-3
"""Shorter gaps between operators are the tracing itself."""


class DependsOnImagesError(Exception):
    """The forward does one thing for a number of images, or for their values, and another for
    others."""


class _ReadInExample:
    """What the stand-in for a value says of it: its length, and a number from it, are those in the
    example."""

    node: fx.Node
    tracer: "ModelTracer"

    def __getattr__(self, name: str) -> "_Attribute":
        return _Attribute(self, name)  # type: ignore[arg-type] # mixed into Proxy below

    def __len__(self) -> int:
        return int(self.tracer.read_in_runs(self.node, len, "the length"))

    def __index__(self) -> int:
        return int(self.tracer.number(self.node, operator.index))

    def __int__(self) -> int:
        return int(self.tracer.number(self.node, int))

    def __float__(self) -> float:
        return float(self.tracer.number(self.node, float))

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.number(self.node, lambda number: round(number, digits))

    def __setitem__(self, index: Any, part: Any) -> None:
        # What uses the value from here on uses the result (operator_graph.py, _follow_overwriting).
        self.tracer.create_proxy("call_function", with_item, (self, index, part), {})


class _Value(_ReadInExample, fx.Proxy):  # type: ignore[misc] # Proxy has them all, and raises
    """The stand-in for a value."""


class _Attribute(_ReadInExample, fx.proxy.Attribute):  # type: ignore[misc] # as above
    """The stand-in for an attribute of a value, which may turn out to be a method."""


class ModelTracer(fx.Tracer):
    """Traces one model, once. `example` has inputs, on which sizes are looked up; `inputs` is their
    structure, `returns` that of the model's output. Graphs take the tensors of the inputs as
    placeholders, one each, and return those of the output as a tuple. With `opens_output`, what an
    operator returns as tuples, lists or dicts of tensors is taken apart where the model returns it
    whole, which takes a run of the example.

    `longest_gap` has the most seconds that the forward took on the host between two operators, and
    the line of the second.
    """

    # A buffer is a node of the graph, as a parameter is: arithmetic on it belongs to the forward.
    proxy_buffer_attributes = True

    returns: Structure

    def __init__(self, example: Example, *, opens_output: bool = False) -> None:
        super().__init__()
        self.longest_gap = (_GAP_S, "")
        self.example = example
        self._opens_output = opens_output
        self.inputs = Structure(example.inputs, example.what)
        self._runs: list[_ExampleRun] = []
        self._runs_in_types: list[_ExampleRun] = []
        self._regions = RegionWatch()
        self._constants: dict[int, tuple[str, torch.Tensor]] = {}
        self._last = 0.0
        self._looks_up = False

    def traced(self, model: nn.Module) -> fx.Graph:
        """The graph of the model's forward. Parameters that the inputs do not fill have their
        defaults."""
        with self._regions.watching(), self._factories():
            self._last = time.perf_counter()
            return self.trace(model)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """In place of torch.fx's placeholders, which are the parameters of the forward: one for
        each tensor of the inputs, in whatever structure the model is called with."""
        names = _placeholder_names(self.root, self.inputs.names)
        stand_ins = [self.create_proxy("placeholder", name, (), {}) for name in names]

        def forward() -> tuple[Any, ...]:
            output = self.example.forward(self.root, self.inputs.tree(stand_ins))
            if self._opens_output:
                output = self._opened(output)
            self.returns = Structure(output, "the output", (fx.Proxy, torch.Tensor))
            return self.returns.row(output)

        return forward, []

    def _opened(self, output: Any) -> Any:
        """The output with tensors alone as stand-ins, and None where there is none."""
        if isinstance(output, fx.Proxy):
            return _taken_apart(output, self._value_in_example(output.node))
        if (inside := opened(output)) is None:
            return output
        items, built = inside
        return built([self._opened(value) for _, value in items])

    def _value_in_example(self, node: fx.Node) -> Any:
        self._looks_up = True
        try:
            return self._sized()[0].value(self.graph, node)
        finally:
            self._looks_up = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = not any(True for _ in m.children())
        return (
            childless
            or getattr(m, "pipeline_leaf", False)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        # While an example runs, torch.fx's hooks on modules are in place too.
        if self._looks_up or m is self.root:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._looks_up:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        waited_s = time.perf_counter() - self._last
        if waited_s > self.longest_gap[0]:
            self.longest_gap = (waited_s, user_line(traceback.walk_stack(None)))
        node = super().create_node(*args, **kwargs)
        self._regions.mark(node)
        self._last = time.perf_counter()
        return node

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and not self._is_of_model(a):
            name, _ = self._constants.setdefault(id(a), (f"constant_{len(self._constants)}", a))
            node = self.create_node("get_attr", name, (), {})
            node.meta[CONSTANT] = a
            return node
        return super().create_arg(a)

    def _is_of_model(self, tensor: torch.Tensor) -> bool:
        """Whether it moves with the model. A tensor that is a plain attribute does not."""
        return isinstance(tensor, nn.Parameter) or any(
            tensor is buffer for buffer in self.root.buffers()
        )

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.number(obj.node, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        assert isinstance(obj, (_Value, _Attribute)), "this tracer's stand-ins"
        return iter([obj[index] for index in range(len(obj))])  # type: ignore[index] # Proxy has it

    def number(self, node: fx.Node, read: Callable[[Any], Any]) -> Any:
        """A number or truth value that the forward asks of a value made of sizes and types."""
        if not _is_made_of(node, SIZES | TYPES):
            raise DependsOnImagesError(
                f"control flow depends on the value of operation {node.name!r}"
            )
        return self.read_in_runs(node, read, "the value", of_types=not _is_made_of(node, SIZES))

    def read_in_runs(
        self, node: fx.Node, read: Callable[[Any], Any], what: str, of_types: bool = False
    ) -> Any:
        """What `read` gives for the value of a node, for any number of samples, and, of a value
        that is made of types, in those of any pass."""
        runs = [*self._sized(), *(self._typed() if of_types else ())]
        self._looks_up = True
        try:
            first, *others = [read(run.value(self.graph, node)) for run in runs]
        finally:
            self._looks_up = False
        for run, other in zip(runs[1:], others, strict=True):
            if first != other:
                raise DependsOnImagesError(
                    f"it depends on {what} of operation {node.name!r}, which is {first} for"
                    f" {runs[0].label} and {other} for {run.label}"
                )
        return first

    def _sized(self) -> list["_ExampleRun"]:
        """Runs of two numbers of samples."""
        if not self._runs:
            example = self.example
            self._runs = [
                _ExampleRun(copied(self.root), self._row(inputs), f"{rows(inputs)} samples")
                for inputs in (example.inputs, example.more())
            ]
        return self._runs

    def _row(self, inputs: Any) -> tuple[torch.Tensor, ...]:
        """The tensors of inputs, in memory of their own."""
        row: tuple[torch.Tensor, ...] = self.inputs.row(mapped(inputs, torch.clone))
        return row

    def _typed(self) -> list["_ExampleRun"]:
        """A run in the types of the proof, and one under autocast."""
        if not self._runs_in_types:
            example, device = self.example, self.example.device.type
            label = f"{example.samples} samples"
            wide = self._row(mapped(example.inputs, widened))
            self._runs_in_types = [
                _ExampleRun(widen(copied(self.root)), wide, f"{label} in float64"),
                _ExampleRun(
                    copied(self.root),
                    self._row(example.inputs),
                    f"{label} under autocast",
                    lambda: torch.autocast(device, torch.bfloat16),
                ),
            ]
        return self._runs_in_types

    @contextmanager
    def _factories(self) -> Iterator[None]:
        """Lets the functions that make tensors take stand-ins."""
        originals = {name: getattr(torch, name) for name in _FACTORIES}

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def made(*args: Any, **kwargs: Any) -> Any:
                if any(isinstance(part, fx.Proxy) for part in _leaves((args, kwargs))):
                    return self.create_proxy("call_function", function, args, kwargs)
                return function(*args, **kwargs)

            return made

        for name, function in originals.items():
            setattr(torch, name, watched(function))
        try:
            yield
        finally:
            for name, function in originals.items():
                setattr(torch, name, function)


def _taken_apart(whole: Any, value: Any) -> Any:
    """The items of a stand-in for tuples, lists or dicts, by its value in an example."""
    if not isinstance(value, Mapping | tuple | list) or (inside := opened(value)) is None:
        return None if value is None else whole
    items, built = inside
    return built([None if each is None else _taken_apart(whole[key], each) for key, each in items])


def _leaves(value: Any) -> Iterator[Any]:
    """The values inside tuples, lists and dicts. torch's own function for it treats a size as one
    value."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _is_made_of(node: fx.Node, attributes: set[str]) -> bool:
    """Whether a value is made of what these attributes tell of tensors alone: no value of a tensor
    has a part in it, and no device."""
    if node.op == "call_method" and node.target in attributes:
        return True
    if node.op != "call_function":
        return False
    if node.target is getattr and node.args[1] in attributes:
        return True
    if node.target in (torch.is_floating_point, torch.is_complex):
        return attributes >= TYPES
    of_torch = getattr(node.target, "__module__", "").startswith("torch")
    if of_torch and node.target not in _OF_TYPES:
        return False
    inputs = node.all_input_nodes
    return bool(inputs) and all(_is_made_of(value, attributes) for value in inputs)


class _ExampleRun:
    """A run of the graph that is being made, as far as needed, by a model that is its own. `label`
    says of what."""

    def __init__(
        self,
        model: nn.Module,
        row: tuple[torch.Tensor, ...],
        label: str,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.label = label
        self._model = model
        self._row = row
        self._precision = precision
        self._values: dict[fx.Node, Any] = {}

    def value(self, graph: fx.Graph, wanted: fx.Node) -> Any:
        """The value of a node in the example."""
        if not self._values:
            self._values = fed(graph, self._row)
        needed = {wanted}
        for node in reversed(graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        devices = list({each.device for each in self._row if each.is_cuda})
        with torch.no_grad(), torch.random.fork_rng(devices), self._precision():
            for node in graph.nodes:
                if node in needed and node not in self._values:
                    self._values[node] = self._run(node)
        return self._values[wanted]

    def _run(self, node: fx.Node) -> Any:
        positional, keyword = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        return function_of(self._model, node)(*positional, **keyword)


def _placeholder_names(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """A name for each tensor of the inputs: the parameter of the forward that takes it, or the name
    that it is given by, and its place inside that."""
    try:
        parameters = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        parameters = []
    names = []
    for path in paths:
        first, _, rest = path.partition("_")
        place = int(first or "0") if first.isdigit() or not path else None
        if place is not None:
            path = parameters[place] if place < len(parameters) else f"input_{place}"
            path = f"{path}_{rest}".strip("_")
        names.append(re.sub(r"\W", "_", path))
    return names


_OURS = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    str(Path(workload.__file__)),
)


def user_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """File, line and text of the first frame, innermost first, that is neither torch's nor the
    tracer's."""
    for frame, number in frames:
        name = frame.f_code.co_filename
        if not name.startswith(_OURS) and not name.startswith("<"):
            return f"{name}:{number} `{linecache.getline(name, number).strip()}`"
    return "its call"
