"""The parallel shapes of a session (--dnn-shapes): which framework runs which, with which options.
All that cannot be is refused before anything starts.

Not here: what a shape is (shape.py), and which axes a framework has (catalog/frameworks.py).
"""

from collections.abc import Iterable, Mapping, Sequence

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.catalog.frameworks import OF_SHAPES
from pytest_dnnbench.controller.case_run import fits
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session.settings import ALL, Settings
from pytest_dnnbench.shape import Shape, shape_of, shapes_of

FIXTURE = "dnn_shape"
"""The fixture that brings a test its shape, as text; it is empty in a session without shapes."""


def frameworks_of(shapes: Sequence[str], catalog: Catalog) -> list[FrameworkSpec]:
    """What runs these shapes where the user has named no frameworks."""
    specs = [catalog.framework(name) for name in OF_SHAPES]
    return [spec for spec in specs if _run_by(spec, shapes_of(shapes))]


class Shapes:
    """The shapes of a session, on the frameworks that run them.

    Raises UsageError for a shape that none of the frameworks runs, on a number of GPUs that the
    session does not have; for a framework that the user has named and that runs none; and for
    options that the shape sets, or with which it cannot be.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        specs: Sequence[FrameworkSpec],
        counts: Sequence[int],
    ) -> None:
        self._options = settings.framework_options
        self.shapes = shapes_of(settings.shapes)
        for shape in self.shapes:
            _check_count(shape, counts)
            _check_run(shape, specs, catalog)
        named = settings.frameworks is not None and ALL not in settings.frameworks
        for spec in specs:
            if self.shapes and named and not self.of(spec):
                raise UsageError(_runs_none(spec, settings.shapes))
            for shape in self.of(spec):
                self._check_options(spec, shape)

    def __bool__(self) -> bool:
        return bool(self.shapes)

    def of(self, spec: FrameworkSpec) -> list[Shape]:
        """Those that a framework runs, in the user's order."""
        return _run_by(spec, self.shapes)

    def _check_options(self, spec: FrameworkSpec, shape: Shape) -> None:
        options, needed = self._options.get(spec.name, {}), spec.options_of(shape) or {}
        for row in spec.options:
            if row.name in needed and options.get(row.name, row.default) != row.default:
                raise UsageError(
                    f"--dnn-shapes {shape} and --dnn-{row.flag} {options[row.name]} both say it:"
                    " leave one of them out"
                )
        if not fits(spec, shape.gpus, {**options, **needed}):
            asked = [
                f"--dnn-{row.flag} {options[row.name]}"
                for row in spec.options
                if options.get(row.name, row.default) != row.default
            ]
            raise UsageError(
                f"--dnn-shapes {shape}: {spec.name} does not run it with"
                f" {' '.join(asked) or 'its defaults'}: leave one of them out"
            )


def options_in(
    text: str, spec: FrameworkSpec, ranks: int, test_options: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """A framework's options for the shape of a case on so many ranks, whose test gives options of
    its own, `test_options`. Raises UsageError where the shape is that of another case."""
    if not text:
        return {}
    shape = shape_of(text)
    options = spec.options_of(shape)
    if options is None:
        raise UsageError(f"the shape of this case is {shape}, which {spec.name} does not run")
    if shape.gpus != ranks:
        raise UsageError(
            f"the shape of this case is {shape}, and the test measures on"
            f" {counted(ranks, 'rank')}: give process_group(gpus)"
        )
    if both := sorted(options.keys() & test_options.keys()):
        raise UsageError(
            f"the shape of this case, {shape}, sets {both[0]!r}, and so does the test: leave it out"
            " of the test's options"
        )
    return options


def _run_by(spec: FrameworkSpec, shapes: Iterable[Shape]) -> list[Shape]:
    return [shape for shape in shapes if spec.options_of(shape) is not None]


def _check_count(shape: Shape, counts: Sequence[int]) -> None:
    if shape.gpus not in counts:
        raise UsageError(
            f"--dnn-shapes {shape} takes {counted(shape.gpus, 'GPU')}, and the session runs on"
            f" {', '.join(map(str, counts))}: leave --gpus and --dnn-gpu-counts out, for shapes say"
            " their number themselves"
        )


def _check_run(shape: Shape, specs: Sequence[FrameworkSpec], catalog: Catalog) -> None:
    if any(spec.options_of(shape) is not None for spec in specs):
        return
    able = [row.name for row in catalog.frameworks.values() if row.options_of(shape) is not None]
    asked = ", ".join(spec.name for spec in specs)
    raise UsageError(
        f"--dnn-shapes {shape}: not run by {asked}: add one of {', '.join(able)} to"
        " --dnn-frameworks"
        if able
        else f"--dnn-shapes {shape}: no framework has {' and '.join(sorted(shape.axes))} together:"
        " use shapes of dp with pp or tp"
    )


def _runs_none(spec: FrameworkSpec, shapes: Sequence[str]) -> str:
    """Why a framework runs none of the shapes, in a line."""
    if not spec.axes:
        return f"{spec.name} runs no shapes: leave it or --dnn-shapes out"
    if spec.max_gpus == 1:
        kind = "dp1"
    else:
        needed = [axis for axis, option in spec.axes.items() if option]
        kind = f"shapes with {needed[0]}" if needed else "shapes of dp alone"
    return f"{spec.name} runs {kind}, and --dnn-shapes has {', '.join(shapes)}: leave it out"
