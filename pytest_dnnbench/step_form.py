"""The form of a step: how a framework runs the step that a case asks for. A leaf.

A framework's row in the catalog names the fields that it takes; anything else is refused before a
rank starts. Not here: how a rank puts a step into its form (rank/step_forms.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from pytest_dnnbench.errors import UsageError

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
MEMORY_FORMATS = (CONTIGUOUS, CHANNELS_LAST)

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""What torch.compile calls its modes."""

CUDA_ONLY = ("cudnn_benchmark", "cuda_graph")
"""Fields that only a CUDA device can have."""


@dataclass(frozen=True, slots=True)
class StepForm:
    """How a step is run; the defaults are the plain form. Raises UsageError for a value, or a
    pair of values, that no step can have.

    memory_format      of images and of the weights of convolutions
    compile            the mode of torch.compile; empty: the step is not compiled
    fused              one kernel updates all weights: the optimiser's `fused=True`
    checkpointing      activations inside a block are computed again in the backward pass
    accumulate         minibatches of a rank whose gradients one update averages
    cudnn_benchmark    cuDNN tries its algorithms, and takes the fastest
    cuda_graph         the step is captured once, and its kernels are launched together
    """

    memory_format: str = CONTIGUOUS
    compile: str = ""
    fused: bool = False
    checkpointing: bool = False
    accumulate: int = 1
    cudnn_benchmark: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.memory_format not in MEMORY_FORMATS:
            raise UsageError(
                f"memory_format {self.memory_format!r} is unknown: choose from"
                f" {', '.join(MEMORY_FORMATS)}"
            )
        if self.compile and self.compile not in COMPILE_MODES:
            raise UsageError(
                f"compile {self.compile!r} is no mode of torch.compile: choose from"
                f" {', '.join(COMPILE_MODES)}; on the command line write --dnn-compile=MODE"
            )
        for each in fields(self):
            value, kind = getattr(self, each.name), type(each.default)
            if type(value) is not kind:
                raise UsageError(f"{each.name} is {value!r}: give a value of type {kind.__name__}")
        if self.accumulate < 1:
            raise UsageError(f"accumulate is {self.accumulate}: it must be at least 1")
        changed = self.changed
        for name, other, why in _NEVER_TOGETHER:
            if name in changed and other in changed:
                raise UsageError(
                    f"{flag_of(name)} with {flag_of(other)}: {why}; leave one of them out"
                )

    @property
    def changed(self) -> tuple[str, ...]:
        """The fields that are not as in the plain form, in their order."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) != each.default)

    @property
    def label(self) -> str:
        """The form in ids and tables, without what is as in the plain form:
        `channels_last-compile-accumulate4`. Empty for the plain form."""
        return "-".join(map(self._part, self.changed))

    def _part(self, name: str) -> str:
        value = getattr(self, name)
        if name == "memory_format":
            return str(value)
        if name == "compile":
            return "compile" if value == COMPILE_MODES[0] else f"compile_{value.replace('-', '_')}"
        return f"{name}{value}" if name == "accumulate" else name

    @property
    def options(self) -> dict[str, str | None]:
        """The options of a session that ask for this form; one without a value has None."""
        asked: dict[str, str | None] = {}
        for name in self.changed:
            value = getattr(self, name)
            asked[flag_of(name)] = None if isinstance(value, bool) else str(value)
        return asked


_NEVER_TOGETHER = (
    (
        "compile",
        "checkpointing",
        "a block that runs again must not move its buffers again, which torch.compile cannot trace",
    ),
    (
        "compile",
        "cuda_graph",
        "compiled code may be compiled again at any step; --dnn-compile=reduce-overhead captures"
        " graphs of its own",
    ),
    (
        "checkpointing",
        "cuda_graph",
        "a block that runs again has the random state of its first pass, which the host holds",
    ),
)
"""Pairs of fields that no step has together, and why."""

FORM_FIELDS = tuple(each.name for each in fields(StepForm))

PLAIN = StepForm()
"""A step as PyTorch's own tutorial runs it."""


REASONS = {
    "cuda_graph": "only single has a step without messages of other ranks, which a graph would"
    " have to hold in the same order on every rank",
}
"""Why a framework takes no such field, where its own row gives no reason."""


def flag_of(name: str) -> str:
    """The option of a field: `--dnn-memory-format`."""
    return f"--dnn-{name.replace('_', '-')}"


def check_form(
    framework: str, form: StepForm, taken: tuple[str, ...], reasons: Mapping[str, str], device: str
) -> None:
    """Raises UsageError, with the reason, where a framework that takes these fields, on this kind
    of device, cannot run a step in this form."""
    for name in form.changed:
        if name in CUDA_ONLY and device != "cuda":
            raise UsageError(
                f"{flag_of(name)} needs a CUDA device, and ranks run on {device!r}: leave it out"
            )
        if name not in taken:
            default = REASONS.get(name, "its row in the catalog does not name this form")
            reason = reasons.get(name, default)
            raise UsageError(
                f"{framework} takes no {flag_of(name)}: {reason}; leave it out, or choose other"
                " frameworks with --dnn-frameworks"
            )
