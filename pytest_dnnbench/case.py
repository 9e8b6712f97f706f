"""One benchmark case: which framework trains or validates which model, on how many ranks, and how.
No torch here."""

from dataclasses import dataclass, field

from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.shape import shape_of
from pytest_dnnbench.step_form import PLAIN, StepForm

Scalar = str | int | float | bool

PHASES = ("train", "validate")
DATASETS = ("synthetic", "mnist", "text")
PRECISIONS = ("fp32", "tf32", "bf16")
SCALINGS = ("weak", "strong")
DEVICES = ("cuda", "cpu")

MNIST_IMAGE_SIZE = 28
"""Images of this size have MNIST's form: one channel, ten classes. Any other size has ImageNet's: 3
and 1000."""

IMAGENET_IMAGE_SIZE = 224
"""Pixels a side of the images that ImageNet's models are measured with."""


def image_form(image_size: int) -> tuple[int, int]:
    """Channels of an image and classes of the labels: (1, 10) at MNIST's size, (3, 1000) at any
    other."""
    return (1, 10) if image_size == MNIST_IMAGE_SIZE else (3, 1000)


def devices_id(gpus: int, nodes: int) -> str:
    """The devices in the id of a test: `4gpu`, over nodes `4gpu-2node`."""
    return f"{gpus}gpu" + (f"-{nodes}node" if nodes > 1 else "")


@dataclass(frozen=True, slots=True)
class Case:
    """What one test case measures. Plain data; crosses process boundaries; validated once, here.

    `batch_size` is the number of samples in one rank's minibatch; under strong scaling, after the
    division. `gpus` counts ranks: on a machine without GPUs they are CPU processes. A sample of
    tokens has `sequence_length` of them; 0: as many as the model chooses. `options` are the
    framework's own; `form` is how a step is run; `nodes` counts the machines that the ranks are on;
    `shape` is the parallel shape that the case was made for, as tp2xdp2, empty where the session
    had none. Raises UsageError for a value that no case can have.
    """

    framework: str
    model: str
    gpus: int
    phase: str
    dataset: str = "synthetic"
    image_size: int = MNIST_IMAGE_SIZE
    batch_size: int = 32
    precision: str = "fp32"
    scaling: str = "weak"
    device: str = "cpu"
    seed: int = 0
    sequence_length: int = 0
    options: dict[str, Scalar] = field(default_factory=dict)
    form: StepForm = PLAIN
    nodes: int = 1
    shape: str = ""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("phase", self.phase, PHASES),
            ("dataset", self.dataset, DATASETS),
            ("precision", self.precision, PRECISIONS),
            ("scaling", self.scaling, SCALINGS),
            ("device", self.device, DEVICES),
        ):
            if value not in choices:
                raise UsageError(f"{name} {value!r} is unknown: choose from {', '.join(choices)}")
        for name, count in (
            ("gpus", self.gpus),
            ("batch_size", self.batch_size),
            ("image_size", self.image_size),
            ("nodes", self.nodes),
        ):
            if count < 1:
                raise UsageError(f"{name} is {count}: it must be at least 1")
        if self.sequence_length < 0:
            raise UsageError(
                f"sequence_length is {self.sequence_length}: it must be at least 0, which leaves it"
                " to the model"
            )
        if self.shape and (ranks := shape_of(self.shape).gpus) != self.gpus:
            raise UsageError(f"shape {self.shape!r} has {ranks} ranks, not {self.gpus}")
        if self.precision == "tf32" and self.device != "cuda":
            raise UsageError(
                f"precision 'tf32' needs a CUDA device, not {self.device!r}: use fp32 or bf16"
            )
        if self.dataset == "mnist" and self.image_size != MNIST_IMAGE_SIZE:
            raise UsageError(
                f"MNIST images have {MNIST_IMAGE_SIZE} pixels a side, not {self.image_size}: leave"
                " the size out"
            )

    @property
    def id(self) -> str:
        """The case in the id of a test: `ddp-resnet50-4gpu`, `ddp-resnet50-4gpu-compile`,
        `tp-gpt-tiny-4gpu-tp2xdp2`."""
        devices = devices_id(self.gpus, self.nodes)
        parts = (self.framework, self.model, devices, self.shape, self.form.label)
        return "-".join(filter(None, parts))

    @property
    def label(self) -> str:
        """The case as messages name it: `ddp-resnet50-4gpu (train)`."""
        return f"{self.id} ({self.phase})"

    def has_phase(self, phases: tuple[str, ...]) -> bool:
        """Whether its phase is one of these."""
        return self.phase in phases

    @property
    def channels(self) -> int:
        """Channels of an image: 1 in MNIST's form, else 3."""
        return image_form(self.image_size)[0]

    @property
    def classes(self) -> int:
        """Classes of the labels: 10 in MNIST's form, else 1000."""
        return image_form(self.image_size)[1]
