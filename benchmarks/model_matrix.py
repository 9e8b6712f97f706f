"""Which model trains under which framework? Every cell is proven and run, or refused in one line.

    python -m benchmarks.model_matrix [--frameworks ddp,fsdp] [--models resnet18,gpt-nano]
        [--phases train,validate] [--shapes pp2xdp2] [--ranks 2] [--checkpointing] [--fused]
        [--channels-last] [--accumulate 2] [--compile default] [--options reshard=yes]

A cell is a case: one plan, one proof and one launch of two steps, in the smallest form of its
model: two samples a rank, images of 28 pixels or the smallest that the model takes. Nothing is
timed, so no devices are leased and other programs may run. `runs` is a proven case, `refused` one
line of UsageError, and FAULT everything else. The exit status is 1 where there is a fault.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import product

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.catalog.models import OF_LARGE_IMAGES
from pytest_dnnbench.controller.case_run import load, prepare_run
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.machine import Machine, detect
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.shape import Shape, shape_of
from pytest_dnnbench.step_form import CHANNELS_LAST, StepForm

MODELS = (
    "resnet18", "resnext50_32x4d", "efficientnet_b0", "mobilenet_v3_small", "squeezenet1_1",
    "googlenet", "shufflenet_v2_x0_5", "mnasnet0_5", "gpt-nano", "llama-tiny", "mlp",
    "tests.tiny_models:vit", "tests.tiny_models:swin", "tests.tiny_models:tiny",
    "tests.awkward_models:ChangesInputs", "tests.own_workloads:TiedWords",
    "tests.awkward_models:FrozenBackbone", "tests.own_workloads:Ranking",
)  # fmt: skip
"""A model of each family, and what users have: batch normalisation, tied weights, frozen ones, two
inputs with a dict of outputs, AdamW and clipping. ViT and Swin are narrow ones."""

_LARGE = 224
_TIMEOUT_S = 240.0


def main() -> int:
    """Prints a line per cell, then what became of how many."""
    asked = _arguments()
    form = StepForm(
        memory_format=CHANNELS_LAST if asked.channels_last else "contiguous",
        compile=asked.compile,
        fused=asked.fused,
        checkpointing=asked.checkpointing,
        accumulate=asked.accumulate,
    )
    names = asked.frameworks.split(",")
    specs = [Catalog().framework(name) for name in names]
    preload = dict.fromkeys([*PRELOAD, *(name for spec in specs for name in spec.preload)])
    outcomes: list[str] = []
    with ForkServer((*preload,)) as server:
        server.wait_ready()
        matrix = _Matrix(server, form, dict(text.split("=") for text in asked.options))
        for model, spec, phase in product(asked.models.split(","), specs, asked.phases.split(",")):
            for ranks, shape in _sizes(spec, asked.ranks, asked.shapes):
                start = time.perf_counter()
                outcome = matrix.outcome(spec, model, phase, ranks, shape)
                seconds = time.perf_counter() - start
                outcomes.append(outcome.partition(":")[0])
                size = str(shape or ranks)
                print(
                    f"{model:36} {spec.name:16} {size:8} {phase:9} {seconds:5.1f} s  {outcome}",
                    flush=True,
                )
    print(", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)))
    return int("FAULT" in outcomes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frameworks", default=",".join(spec.name for spec in FRAMEWORKS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--phases", default="train,validate")
    parser.add_argument("--shapes", default="")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", default="")
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--options", nargs="*", default=[], help="of the frameworks: NAME=TEXT")
    return parser.parse_args()


def _sizes(spec: FrameworkSpec, ranks: int, shapes: str) -> Iterator[tuple[int, Shape | None]]:
    """The numbers of ranks that a framework runs on, each with a shape where any are asked for."""
    if not shapes:
        yield min(ranks, spec.max_gpus or ranks), None
    for shape in map(shape_of, filter(None, shapes.split(","))):
        if spec.options_of(shape) is not None:
            yield shape.gpus, shape


class _Matrix:
    """Runs cells on ranks that a server forks."""

    def __init__(self, server: ForkServer, form: StepForm, options: dict[str, Scalar]) -> None:
        self.server = server
        self.form = form
        self.options = options
        self.catalog = Catalog()
        self.machine: Machine = detect("cpu")

    def outcome(
        self, spec: FrameworkSpec, model: str, phase: str, ranks: int, shape: Shape | None
    ) -> str:
        """What became of a cell, in one line."""
        try:
            self._run(spec, model, phase, ranks, shape)
        except UsageError as error:
            lines = str(error).splitlines()
            return f"{'refused' if len(lines) == 1 else 'FAULT'}: {' | '.join(lines)}"
        except DnnbenchError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            return f"FAULT: {type(error).__name__}: {' | '.join([lines[0], *lines[-2:]])}"
        return "runs"

    def _run(
        self, spec: FrameworkSpec, model: str, phase: str, ranks: int, shape: Shape | None
    ) -> None:
        path = self.catalog.model(model)
        options = {**self.options, **((shape and spec.options_of(shape)) or {})}
        spec.check_model(model, path)
        spec.check_form(self.form, self.machine.kind)
        spec.check_options(options)
        case = Case(
            spec.name,
            model,
            ranks,
            phase,
            image_size=_LARGE if path in OF_LARGE_IMAGES else 28,
            batch_size=2,
            options=options,
            form=self.form,
            shape=str(shape or ""),
        )
        group = Ranks(self.server, ["cpu"] * ranks, threads=1, timeout_s=_TIMEOUT_S)
        launcher = RankLauncher(group, spec.planning, load(spec.rendezvous))
        run = prepare_run(case, self.catalog, launcher, self.machine, steps=2, warmup=1, data=None)
        run.launch()


if __name__ == "__main__":
    sys.exit(main())
