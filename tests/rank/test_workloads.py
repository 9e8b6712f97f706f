"""Workloads as users have them, through every data-parallel framework: proven right, wrong steps
caught, and what cannot be taken refused in one line."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.mnist_files import MnistFiles
from pytest_dnnbench.rank.proof.data_parallel_reference import Reference
from pytest_dnnbench.rank.proof.reference_update import clip_gradients, in_words
from pytest_dnnbench.rank.update_rule import optimiser_for
from pytest_dnnbench.rank.workloads.batches import synthetic_batch, wide
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.image_models import build_model, seed, widen
from pytest_dnnbench.rank.workloads.image_workload import ImageWorkload
from pytest_dnnbench.rank.workloads.workload import Batch
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from tests.own_workloads import Ranking, Words
from tests.patience import HANG_S

CPU = torch.device("cpu")


def request(
    framework: str, gpus: int, workload: str, *, phase: str = "train", worker: str = ""
) -> RunRequest:
    model = f"tests.own_workloads:{workload}"
    case = Case(framework, model, gpus, phase, batch_size=4)
    return RunRequest(case, worker or Catalog().framework(framework).worker, model, 3, 1)


def launch(server: ForkServer, target: str, asked: RunRequest) -> list[RankReport]:
    ranks = Ranks(server, ["cpu"] * asked.case.gpus, threads=1, timeout_s=HANG_S)
    horovod = asked.case.framework == "horovod"
    return ranks.launch(target, asked, **({"rendezvous": horovod_rendezvous} if horovod else {}))


def prove(server: ForkServer, *asked: object, **more: str) -> CorrectnessEntry:
    made = request(*asked, **more)  # type: ignore[arg-type] # passed on
    return agree(made.case, launch(server, PROVE, made))  # type: ignore[arg-type] # of PROVE


@pytest.mark.parametrize(
    ("framework", "gpus", "workload"),
    [
        ("single", 1, "Ranking"),
        ("ddp", 2, "Ranking"),
        ("horovod", 2, "Ranking"),
        ("ddp", 4, "Ranking"),
        ("ddp", 2, "Tuples"),
        ("horovod", 2, "Tuples"),
        ("single", 1, "Words"),
        ("ddp", 2, "words"),
    ],
)
def test_a_right_step_passes(server: ForkServer, framework: str, gpus: int, workload: str) -> None:
    evidence = prove(server, framework, gpus, workload)
    assert evidence.ranks_agree == "bit for bit"
    for kind in ("gradients", "parameters", "buffers"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9
    if workload == "Ranking":
        assert evidence.about["reference"] == (
            "the model in one process, the shards one by one, the mean of their gradients, clipped,"
            " a fresh AdamW"
        )


@pytest.mark.parametrize("workload", ["Ranking", "Tuples"])
def test_every_output_is_compared_in_validation(server: ForkServer, workload: str) -> None:
    evidence = prove(server, "ddp", 2, workload, phase="validate")
    assert evidence.checked == ["output in float32", "output"]


@pytest.mark.parametrize(
    ("fault", "workload", "failure"),
    [
        ("SkippedStep", "Ranking", "parameters of step 0"),
        ("SummedGradients", "Tuples", "gradients of step 0"),
        ("DoubledDecay", "Ranking", "parameters of step 0"),
        ("LocalClip", "Ranking", "gradients of step 0"),
        ("LocalClip", "Words", "gradients of step 0"),
        ("NoClip", "Ranking", "gradients of step 0"),
        ("EagerScheduler", "Ranking", "optimiser settings of step 0: steps of the scheduler"),
        ("NoScheduler", "Ranking", "parameters of step 1"),
        ("NoScheduler", "LateDecay", "optimiser settings of step 0: steps of the scheduler"),
        ("NoAllReduce", "Ranking", "gradients of step 0"),
    ],
)
def test_a_wrong_step_is_caught(
    server: ForkServer, fault: str, workload: str, failure: str
) -> None:
    with pytest.raises(WrongResult, match=failure):
        prove(server, "ddp", 2, workload, worker=f"tests.rank.broken_workers:{fault}")


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("NotAPair", r"NotAPair.batch returned Tensor: return two, the inputs of the model and"),
        ("NoTensor", "the inputs of NoTensor.batch are a str without a tensor: return a tensor"),
        ("LossPerToken", r"LossPerToken.loss returned a tensor of shape .24,. and type float32"),
        ("NeedsClosure", "returned LBFGS, whose step needs a closure"),
        ("NoOptimiser", "NoOptimiser.optimizer returned a type: return a torch.optim.Optimizer"),
        ("WaitsForMetric", "a ReduceLROnPlateau, which waits for a metric"),
        ("ChangesGradients", "_Centred.step changes the gradient of 'table.weight'"),
        ("OtherParameters", "returned SGD with parameters in group 1 that are not those of the"),
        ("NoModel", "NoModel.model returned a NoneType: return a torch.nn.Module"),
        ("AlwaysSeven", r"AlwaysSeven.batch was asked for 4 samples and returned .* shape .7, 3."),
        ("NoSamples", r"NoSamples.proof_batch was asked for 4 samples .* of shape .0, 3."),
        ("NotANumber", "NotANumber.loss is nan for the first minibatch and fresh weights"),
        ("Detached", "Detached.loss has no gradient, so nothing can be trained"),
        ("NegativeNorm", "NegativeNorm.clip_norm is -1.0: set a positive number"),
        ("NormInWords", "NormInWords.clip_norm is '1.0': set a positive number"),
        ("ProofOfNothing", "ProofOfNothing.proof_size is 0: set a whole number of samples from 2"),
        ("Apples", "Apples.sample is 'apples': set what throughput counts, one of img, tok, samp"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_a_line(
    server: ForkServer, workload: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        prove(server, "single", 1, workload)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("HalfASample", "HalfASample.samples returned 0.5: return a whole number"),
        ("DataThatEnds", "DataThatEnds.batches ended after 3 minibatches: return an iterator wi"),
        ("DataTooShort", r"DataTooShort.batches was asked for 4 samples .* of shape .3, 3."),
        ("NoData", "NoData.batches returned a int: return an iterator of minibatches, or None"),
    ],
)
def test_what_only_a_run_shows_is_refused_in_a_line(
    server: ForkServer, workload: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        launch(server, MEASURE, request("single", 1, workload))
    assert "\n" not in str(caught.value)


def test_what_horovod_cannot_make_anew_is_refused(server: ForkServer) -> None:
    with pytest.raises(UsageError, match="makes OwnLog anew from its parameter groups alone"):
        prove(server, "horovod", 2, "NeedsArgument")


def test_mnist_is_refused_for_a_workload_with_data_of_its_own() -> None:
    files = MnistFiles("a", "b", "c", "d", 1, 1)
    asked = request("single", 1, "Words")
    mnist = RunRequest(asked.case, asked.worker, asked.model, 1, 0, data=files)
    with pytest.raises(UsageError, match="which takes its own data: use --dnn-dataset synth"):
        workload_of(mnist)


def test_a_workload_in_place_of_an_image_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match=r"made a Words: make it return a torch.nn"):
        build_model("tests.own_workloads:Words", 28)


def test_tokens_are_counted_as_the_workload_says(server: ForkServer) -> None:
    reports = launch(server, MEASURE, request("ddp", 2, "words"))
    assert [report.sample for report in reports] == ["tok", "tok"]
    assert {samples for report in reports for samples in report.step_samples} == {4 * 6}
    assert reports[0].samples_per_update == 2 * 4 * 6
    assert reports[0].fingerprint == reports[1].fingerprint != ""


def test_images_for_a_gpu_are_drawn_there_unless_the_batch_is_the_users() -> None:
    """The device "meta" stands for a GPU."""

    class Own(ImageWorkload):
        def batch(self, size: int) -> Batch:
            return torch.zeros(size, 1, 28, 28), torch.zeros(size, dtype=torch.int64)

    elsewhere, tiny = torch.device("meta"), "tests.tiny_models:tiny"
    for workload, device in (
        (ImageWorkload(tiny, 28), elsewhere),
        (Own(tiny, 28), CPU),
        (Words(), CPU),
    ):
        inputs, targets = workload.batch_on(3, elsewhere)
        assert {inputs.device, targets.device} == {device}
    made = synthetic_batch(ImageWorkload(tiny, 28), 0, 0, elsewhere, size=3, seed=0)
    assert made[0].device == elsewhere


def test_a_batch_is_the_same_for_the_same_seed_shard_and_step_only() -> None:
    def batch(shard: int = 0, index: int = 0, seed: int = 0) -> torch.Tensor:
        inputs: torch.Tensor = synthetic_batch(Words(), shard, index, CPU, size=4, seed=seed)[0]
        return inputs

    before = torch.get_rng_state()
    assert torch.equal(batch(), batch())
    assert all(
        not torch.equal(batch(), other) for other in (batch(shard=1), batch(index=1), batch(seed=1))
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_the_reference_of_an_own_optimiser_equals_plain_training() -> None:
    """AdamW in groups, warm-up and clipping by torch itself on the joined batch, step by step."""
    seed(0)
    workload, settings = Ranking(), request("single", 1, "Ranking")
    model = widen(workload.model()).train()
    plain = copy.deepcopy(model)
    optimiser = workload.optimizer(plain)
    scheduler = workload.scheduler(optimiser)
    reference = Reference(workload, model, settings)
    for index in range(4):
        shard = wide(synthetic_batch(workload, 0, index, CPU, size=6, seed=0))
        expected = reference.differentiate([shard])
        optimiser.zero_grad()
        workload.loss_of(plain, shard).backward()  # type: ignore[no-untyped-call] # torch's gap
        clip_grad_norm_(plain.parameters(), workload.clip_norm)
        for name, parameter in plain.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                assert torch.allclose(
                    expected.gradients[name], parameter.grad, rtol=1e-12, atol=1e-15
                )
        optimiser.step()
        scheduler.step()
        reference.update(expected.gradients, expected.buffers)
        for name, parameter in plain.named_parameters():
            assert torch.allclose(reference.parameters[name], parameter, rtol=1e-11, atol=1e-13)


def test_the_record_says_whose_optimiser_the_reference_has() -> None:
    """That of a workload with a scheduler alone is torch's SGD; the record had it written out."""

    class WarmsUp(Words):
        def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
            return ConstantLR(optimizer)

    for workload, words in (
        (WarmsUp(), "clipped, a fresh SGD"),
        (Words(), "clipped, SGD written out"),
        (Ranking(), "clipped, a fresh AdamW"),
    ):
        settings = request("single", 1, "Words")
        assert in_words(workload, optimiser_for(workload, workload.model(), settings)) == words


def test_clipping_is_torchs() -> None:
    torch.manual_seed(0)
    weights = [
        torch.randn(5, 3).double().requires_grad_(),
        torch.randn(7).double().requires_grad_(),
    ]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    for limit in (0.1, 1e3):
        ours = {str(n): w.grad.clone() for n, w in enumerate(weights) if w.grad is not None}
        clip_gradients(ours, limit)
        clip_grad_norm_(weights, limit)
        for number, weight in enumerate(weights):
            assert weight.grad is not None
            assert torch.allclose(ours[str(number)], weight.grad, rtol=1e-15, atol=0)


def test_the_default_loss_takes_logits_of_samples_and_of_tokens() -> None:
    logits, labels = torch.randn(4, 6, 9), torch.randint(9, (4, 6))
    loss = Words().loss(logits, labels)
    assert torch.equal(loss, cross_entropy(logits.reshape(24, 9), labels.reshape(24)))
    assert torch.equal(Words().loss(logits[0], labels[0]), cross_entropy(logits[0], labels[0]))
