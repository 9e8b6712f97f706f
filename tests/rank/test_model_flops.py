"""Operations of a model, against counts by hand and by the literature; and what follows on a known
GPU."""

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.device_peaks import PEAKS, peak_flops
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.metrics import METRICS
from pytest_dnnbench.rank.workloads.model_flops import flops_per_sample
from pytest_dnnbench.rank.workloads.workload import Batch, Workload
from pytest_dnnbench.results.records.measurement import Launch, Measurement
from pytest_dnnbench.results.records.schema import CorrectnessEntry, Environment


class Line(Workload):
    """Two linear layers, 16 to 32 to 4."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    def batch(self, size: int) -> Batch:
        return torch.randn(size, 16), torch.randint(4, (size,))


class Looks(Line):
    """Its loss depends on a value that a device without values cannot have."""

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().loss(output, targets) * (2.0 if float(output.sum()) > 0 else 1.0)


class LooksByNumpy(Line):
    """As above: torch refuses NumPy with an error of another kind."""

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().loss(output, targets) * float(output.detach().numpy().sum())


class Countless(Line):
    """None of its minibatches counts as a sample."""

    def samples(self, inputs: torch.Tensor) -> int:
        return 0


def request(model: str, phase: str, image_size: int = 28) -> RunRequest:
    case = Case("single", model, 1, phase, image_size=image_size, batch_size=8)
    return RunRequest(case, "", model, steps=1, warmup=0)


def test_a_model_is_counted_as_by_hand() -> None:
    forward = 2 * (16 * 32 + 32 * 4)
    # The backward pass computes a product for the weights and one for the inputs of each layer; the
    # first layer's inputs need none.
    backward = 2 * (16 * 32 + 2 * 32 * 4)
    line = f"{__name__}:Line"
    assert flops_per_sample(request(line, "validate")) == forward
    assert flops_per_sample(request(line, "train")) == forward + backward


def test_resnet50_is_counted_as_in_the_literature() -> None:
    """4.09e9 multiplications and additions of a forward pass (torchvision's table of its
    models)."""
    resnet = "torchvision.models:resnet50"
    forward = flops_per_sample(request(resnet, "validate", 224))
    train = flops_per_sample(request(resnet, "train", 224))
    assert forward is not None
    assert forward == pytest.approx(2 * 4.09e9, rel=0.01)
    assert train is not None
    assert 2.9 < train / forward < 3.0


@pytest.mark.parametrize("model", ["Looks", "LooksByNumpy", "Countless"])
def test_what_cannot_be_counted_per_sample_has_no_count(model: str) -> None:
    assert flops_per_sample(request(f"{__name__}:{model}", "train")) is None


@pytest.mark.parametrize(
    ("gpu", "facts", "mfu"),
    [
        # 32 images in 2 s, of 1e12 operations each, on two GPUs of 989.4e12 a second.
        ("NVIDIA H200, NVIDIA H200", {"flops_per_sample": 1e12}, 16 / (2 * 989.4)),
        ("NVIDIA H200, NVIDIA B300", {"flops_per_sample": 1e12}, None),
        ("NVIDIA H200", {"flops_per_sample": 1e12}, None),
        ("NVIDIA H200, NVIDIA H200", {}, None),
        (None, {"flops_per_sample": 1e12}, None),
    ],
)
def test_mfu_is_said_only_where_both_sides_are_known(
    gpu: str | None, facts: dict[str, float], mfu: float | None
) -> None:
    reports = tuple(RankReport(rank, 0.0, 2.0, (0, 1), (1.0, 2.0), (8, 8), 16) for rank in range(2))
    measurement = Measurement(
        Case("ddp", "resnet50", 2, "train", precision="bf16", device="cuda"),
        (Launch(reports),),
        CorrectnessEntry(about=dict(facts)),
        Environment(must_match={"gpu": gpu}),
        oversubscribed=False,
        steps=2,
        warmup=1,
    )
    values = measurement.values()
    if mfu is None:
        assert "mfu" not in values
    else:
        assert values["mfu"].per_launch == [pytest.approx(mfu)]


def test_peaks_are_of_precisions_that_cases_have() -> None:
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp64") is None
    assert peak_flops("NVIDIA Unheard Of", "bf16") is None
    for peaks in PEAKS.values():
        assert set(peaks) <= {"fp32", "tf32", "bf16"}
        assert sorted(peaks.values()) == list(peaks.values()), "each is faster than the one before"
    assert METRICS["mfu"].devices == ("cuda",)
