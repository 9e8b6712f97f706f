"""Profiles made up in the shapes of known models: for the planner's benchmark and its tests.

Times and sizes are drawn from a seed; the graphs have the branches, and about the number of
operators, of the models that they are named after. No model is built and nothing is measured.
"""

import random

from pytest_dnnbench.planner.profile import Operator, Profile


class Sketch:
    """A profile being drawn: every call adds operators and returns the name of the last one."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._operators: list[Operator] = []
        self._edges: list[tuple[str, str]] = []

    def operator(self, kind: str, *sources: str) -> str:
        """One operator; convolutions take time and have weights, the others take a tenth of it."""
        name = f"{kind}{len(self._operators)}"
        heavy = kind in ("conv", "linear")
        time_s = self._random.uniform(0.5e-3, 5e-3) * (1.0 if heavy else 0.1)
        weights = 4 * self._random.randrange(1 << 10, 1 << 20) if heavy else 0
        self._operators.append(
            Operator(
                name,
                kind,
                time_s,
                2 * time_s,
                4 * self._random.randrange(1 << 14, 1 << 20),
                weights,
            )
        )
        self._edges += [(source, name) for source in dict.fromkeys(sources)]
        return name

    def unit(self, *sources: str, depth: int = 1) -> str:
        """`depth` times convolution, normalisation, activation."""
        for _ in range(depth):
            sources = (
                self.operator("relu", self.operator("norm", self.operator("conv", *sources))),
            )
        return sources[0]

    def profile(self) -> Profile:
        return Profile(tuple(self._operators), tuple(self._edges))


def chain(length: int, seed: int = 0) -> Profile:
    """Operators in a row."""
    sketch = Sketch(seed)
    last = sketch.operator("conv")
    for _ in range(length - 1):
        last = sketch.operator("conv", last)
    return sketch.profile()


def residual(blocks: int, seed: int = 0) -> Profile:
    """As resnet: three units and a shortcut to a block, every fourth shortcut with a convolution of
    its own."""
    sketch = Sketch(seed)
    last = sketch.unit()
    for block in range(blocks):
        long = sketch.operator("norm", sketch.operator("conv", sketch.unit(last, depth=2)))
        short = last if block % 4 else sketch.operator("norm", sketch.operator("conv", last))
        last = sketch.operator("relu", sketch.operator("add", long, short))
    sketch.operator("linear", last)
    return sketch.profile()


def dense(layers: tuple[int, ...] = (6, 12, 24, 16), seed: int = 0) -> Profile:
    """As densenet121: every layer reads the concatenation of all before it in its group."""
    sketch = Sketch(seed)
    last = sketch.unit()
    for count in layers:
        features = [last]
        for _ in range(count):
            features.append(
                sketch.operator("conv", sketch.unit(sketch.operator("concat", *features)))
            )
        last = sketch.unit(sketch.operator("concat", *features))
    sketch.operator("linear", last)
    return sketch.profile()


def inception(blocks: int = 11, seed: int = 0) -> Profile:
    """As inception_v3: four branches of different lengths to a block, two of which fork again in
    the last ones."""
    sketch = Sketch(seed)
    last = sketch.unit(depth=5)
    for block in range(blocks):
        pooled = sketch.unit(sketch.operator("pool", last))
        branches = [
            sketch.unit(last),
            sketch.unit(last, depth=2),
            sketch.unit(last, depth=3),
            pooled,
        ]
        if block >= blocks - 2:
            forks = branches[1:3]
            branches = [
                branches[0],
                pooled,
                *(sketch.unit(fork) for fork in forks for _ in range(2)),
            ]
        last = sketch.operator("concat", *branches)
    sketch.operator("linear", last)
    return sketch.profile()


def nasnet(cells: int = 18, seed: int = 0) -> Profile:
    """As nasnet: cells of five pairs of operators that read the two cells before, so nothing is
    ever narrow."""
    sketch = Sketch(seed)
    before = last = sketch.unit()
    for _ in range(cells):
        left, right = sketch.unit(before), sketch.unit(last)
        pairs = [
            sketch.operator("add", sketch.unit(left, depth=2), sketch.unit(right)),
            sketch.operator("add", sketch.unit(right, depth=2), sketch.unit(left)),
            sketch.operator("add", sketch.operator("pool", left), right),
            sketch.operator("add", sketch.operator("pool", right), sketch.operator("pool", left)),
            sketch.operator("add", sketch.unit(left), right),
        ]
        before, last = last, sketch.operator("concat", *pairs)
    sketch.operator("linear", last)
    return sketch.profile()
