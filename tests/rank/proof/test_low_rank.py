"""PowerSGD written out: what it gives and keeps; `ddp` with torch's hook does the same over
ranks."""

import pytest
import torch

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.rank.proof.low_rank import LowRank, orthonormal
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

TINY = "tests.tiny_models:tiny"
OWN = "tests.own_workloads"


def state(columns: int, rank: int, **orders: tuple[int, ...]) -> LowRank:
    """Before the first step, of one weight, "w" unless it is named."""
    torch.manual_seed(1)
    right = torch.randn(columns, rank, dtype=torch.float64)
    orders = orders or {"w": (0, 1)}
    return LowRank(dict.fromkeys(orders, right), orders)


def matrix(rows: int, columns: int, rank: int) -> torch.Tensor:
    """A matrix of this rank."""
    torch.manual_seed(2)
    left = torch.randn(rows, rank, dtype=torch.float64)
    return left @ torch.randn(rank, columns, dtype=torch.float64)


def test_columns_become_orthonormal_and_span_the_same() -> None:
    columns = matrix(9, 3, 3)
    made = orthonormal(columns)
    assert torch.allclose(made.T @ made, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(made @ (made.T @ columns), columns)


def test_a_matrix_of_the_rank_is_given_as_it_is() -> None:
    exact = matrix(8, 7, 2)
    gradients = {"w": exact.clone(), "bias": torch.ones(8, dtype=torch.float64)}
    after = state(7, 2).exchange(gradients)
    assert torch.allclose(gradients["w"], exact, atol=1e-12)
    assert torch.allclose(after.errors["w"], torch.zeros(8, 7, dtype=torch.float64), atol=1e-12)
    assert torch.equal(gradients["bias"], torch.ones(8, dtype=torch.float64))


def test_what_is_left_out_of_a_step_is_part_of_the_next() -> None:
    first, second = matrix(8, 7, 7), matrix(8, 7, 5)
    gradients = {"w": first.clone()}
    after = state(7, 1).exchange(gradients)
    assert torch.linalg.matrix_rank(gradients["w"]) == 1
    assert torch.allclose(gradients["w"] + after.errors["w"], first)
    given = {"w": second.clone()}
    last = after.exchange(given)
    assert torch.allclose(given["w"] + last.errors["w"], second + after.errors["w"])


def test_repeated_steps_approach_the_best_approximation() -> None:
    """The warm start makes it power iteration: with its errors forgotten, it ends at the truncated
    singular value decomposition (Eckart and Young)."""
    exact = matrix(8, 7, 4)
    u, s, v = torch.linalg.svd(exact)
    best, now = s[0] * torch.outer(u[:, 0], v[0]), state(7, 1)
    for _ in range(200):
        given = {"w": exact.clone()}
        now = LowRank(now.exchange(given).right, now.orders)
    assert torch.allclose(given["w"], best, atol=1e-9)


def test_dimensions_are_taken_as_they_lie_in_memory() -> None:
    """The columns of channels_last are those of contiguous in another order, and so is what is
    given for the same start."""
    weight = matrix(6, 12, 6).reshape(6, 3, 2, 2)
    plain, turned = {"w": weight.clone()}, {"w": weight.clone()}
    start = state(12, 1, w=(0, 1, 2, 3))
    start.exchange(plain)
    right = start.right["w"].reshape(3, 2, 2, 1).permute(1, 2, 0, 3).reshape(12, 1)
    LowRank({"w": right}, {"w": (0, 2, 3, 1)}).exchange(turned)
    assert torch.allclose(plain["w"], turned["w"], atol=1e-12)


def test_a_gradient_of_zeros_is_refused() -> None:
    with pytest.raises(UsageError, match="gradient of 'w' is zero, and torch's hook divides"):
        state(7, 1).exchange({"w": torch.zeros(8, 7, dtype=torch.float64)})


def request(
    model: str, worker: str = "", form: StepForm | None = None, **options: Scalar
) -> RunRequest:
    options = {"hook": "powersgd", **options}
    case = Case("ddp", model, 2, "train", batch_size=4, options=options, form=form or StepForm())
    path = Catalog().model(model)
    return RunRequest(case, worker or Catalog().framework("ddp").worker, path, 2, 1, recheck=True)


def prove(server: ForkServer, asked: RunRequest) -> CorrectnessEntry:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    return agree(asked.case, ranks.launch(PROVE, asked))


@pytest.mark.parametrize(
    ("model", "rank", "form"),
    [
        (TINY, 1, StepForm()),
        (TINY, 1, StepForm(memory_format="channels_last", accumulate=2)),
        ("tests.tiny_models:deep", 2, StepForm()),
        ("gpt-nano", 4, StepForm(fused=True)),
        (f"{OWN}:Ranking", 1, StepForm()),
        (f"{OWN}:Words", 1, StepForm()),
    ],
    ids=str,
)
def test_torchs_hook_is_proven_as_strictly_as_the_mean(
    server: ForkServer, model: str, rank: int, form: StepForm
) -> None:
    evidence = prove(server, request(model, form=form, powersgd_rank=rank))
    assert "by PowerSGD written out" in str(evidence.about["reference"])
    assert evidence.ranks_agree == "bit for bit"
    for kind in ("gradients", "parameters"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9


def test_buckets_do_not_get_mixed_up(server: ForkServer) -> None:
    """Ranks on gloo once sent the messages of two buckets in different orders, and died of it."""
    evidence = prove(server, request("gpt-nano", bucket_mb=0.05))
    assert evidence.largest_deviation["parameters"] <= evidence.tolerance["parameters"] < 1e-9


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("NeverApproximates", "gradients in float32 of the timed step"),
        ("ForgetsErrors", "gradients of step 1"),
        ("OneRankHigher", "gradients in float32 of the timed step"),
    ],
)
def test_another_approximation_is_caught(server: ForkServer, fault: str, failure: str) -> None:
    with pytest.raises(WrongResult, match=failure):
        prove(server, request(TINY, f"tests.rank.broken_hooks:{fault}"))


def test_all_timed_steps_are_approximated_and_recorded(server: ForkServer) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = ranks.launch(MEASURE, request(TINY))
    assert reports[0].fingerprint == reports[1].fingerprint
    details = reports[0].details
    assert (details["hook"], details["powersgd_rank"]) == ("powersgd", 1)
    # Of 4*9 + 4 + 4 + 4 + 64*10 + 10 gradients 13 + 12 + 74 + 10 are exchanged.
    assert details["powersgd_compression"] == round(698 / 109, 2)


def test_a_weight_without_dimensions_is_refused(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="takes real weights with dimensions, and 'scale' is"):
        prove(server, request("tests.rank.proof.test_low_rank:Scaled"))


class Scaled(torch.nn.Sequential):
    """A model with a weight that is a number."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled logits."""
        logits: torch.Tensor = self[1](self[0](images)) * self.scale
        return logits
