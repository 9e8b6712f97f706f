"""Models of tokens: their sizes, their attention against plain loops, and their proof under every
data-parallel framework."""

import math

import pytest
import torch

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.models import OWN_MODELS
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.rank_launcher import PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.workloads import gpt, llama
from pytest_dnnbench.rank.workloads.factory import workload_of
from pytest_dnnbench.rank.workloads.image_models import seed
from pytest_dnnbench.rank.workloads.workload import Workload
from pytest_dnnbench.results.records.rank_agreement import agree
from tests.patience import HANG_S


def built_in(name: str, **fields: int) -> Workload:
    model = Catalog().model(name)
    case = Case("single", name, 1, "train", sequence_length=fields.get("sequence_length", 0))
    return workload_of(RunRequest(case, "", model, 1, 0))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
        ("llama2-7b", 6_738_415_616),
        ("llama3-1b", 1_235_814_400),
        ("llama3-8b", 8_030_261_248),
    ],
)
def test_published_models_have_their_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(each.numel() for each in built_in(name).model().parameters()) == parameters


@pytest.mark.parametrize("name", [name for name in OWN_MODELS if "-t" in name or "-n" in name])
def test_a_token_sees_those_before_it_only(name: str) -> None:
    seed(0)
    model = built_in(name).model().double().eval()
    tokens = torch.randint(256, (1, 20))
    other = tokens.clone()
    other[0, 12] = (other[0, 12] + 1) % 256
    before, after = model(tokens), model(other)
    assert torch.allclose(before[0, :12], after[0, :12], rtol=0, atol=1e-12)
    assert (before[0, 12:] - after[0, 12:]).abs().amax(-1).min() > 1e-6


def rotate(vector: torch.Tensor, place: int, base: float) -> torch.Tensor:
    """Each pair (i, i + half) turned by place * base ** (-2 i / width), number by number."""
    half = len(vector) // 2
    turned = vector.clone()
    for i in range(half):
        angle = place * base ** (-2 * i / len(vector))
        a, b = vector[i], vector[i + half]
        turned[i] = a * math.cos(angle) - b * math.sin(angle)
        turned[i + half] = a * math.sin(angle) + b * math.cos(angle)
    return turned


def loops(
    part: gpt.Attention | llama.Attention, stream: torch.Tensor, heads: int, base: float | None
) -> torch.Tensor:
    """Causal attention of one sample, (sequence, width), position by position and head by head."""
    query, key, value = part.query(stream), part.key(stream), part.value(stream)
    width = query.shape[1] // heads
    group = heads // (key.shape[1] // width)
    out = torch.zeros_like(query)
    for head in range(heads):
        mine = slice(head * width, (head + 1) * width)
        theirs = slice(head // group * width, (head // group + 1) * width)
        queries, keys = list(query[:, mine]), list(key[:, theirs])
        if base is not None:
            queries = [rotate(each, place, base) for place, each in enumerate(queries)]
            keys = [rotate(each, place, base) for place, each in enumerate(keys)]
        for place, each in enumerate(queries):
            scores = torch.stack([each @ other for other in keys[: place + 1]]) / math.sqrt(width)
            out[place, mine] = scores.softmax(0) @ value[: place + 1, theirs]
    made: torch.Tensor = part.out(out)
    return made


def test_attention_equals_plain_loops() -> None:
    seed(0)
    stream = torch.randn(1, 9, 32).double()
    plain = gpt.Attention(gpt.GptSizes(1, 4, 32)).double().eval()
    grouped = llama.Attention(llama.LlamaSizes(1, 4, 2, 32, 64)).double()
    assert torch.allclose(plain(stream)[0], loops(plain, stream[0], 4, None), rtol=0, atol=1e-12)
    assert torch.allclose(
        grouped(stream)[0], loops(grouped, stream[0], 4, grouped.base), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("framework", "gpus", "model"),
    [
        ("single", 1, "gpt-nano"),
        ("ddp", 2, "gpt-nano"),
        ("horovod", 2, "gpt-nano"),
        ("ddp", 4, "gpt-nano"),
        ("single", 1, "llama-tiny"),
        ("ddp", 2, "llama-tiny"),
        ("horovod", 2, "llama-tiny"),
        ("ddp", 2, "mlp"),
        ("horovod", 2, "mlp"),
    ],
)
def test_a_right_step_is_proven(server: ForkServer, framework: str, gpus: int, model: str) -> None:
    case = Case(framework, model, gpus, "train", batch_size=4)
    row, path = Catalog().framework(framework), Catalog().model(model)
    ranks = Ranks(server, ["cpu"] * gpus, threads=1, timeout_s=HANG_S)
    horovod = {"rendezvous": horovod_rendezvous} if framework == "horovod" else {}
    request = RunRequest(case, row.worker, path, 1, 0)
    evidence = agree(case, ranks.launch(PROVE, request, **horovod))
    assert evidence.ranks_agree == "bit for bit"
    for kind in ("gradients", "parameters"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind] < 1e-9


def test_a_sample_has_as_many_tokens_as_asked_for() -> None:
    workload = built_in("gpt-nano", sequence_length=32)
    inputs, targets = workload.batch(3)
    assert inputs.shape == targets.shape == (3, 32)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert workload.samples(inputs) == 96
    assert workload.data_facts()["sequence_length"] == 32
    assert built_in("gpt-nano").batch(1)[0].shape == (1, 128)
    assert built_in("gpt2-124m").proof_batch(1)[0].shape == (1, 64)
    with pytest.raises(UsageError, match="-length is 129: the model has 128 positions"):
        built_in("gpt-nano", sequence_length=129)


def test_matrices_decay_and_vectors_do_not() -> None:
    workload = built_in("llama-tiny")
    optimiser = workload.optimizer(workload.model())
    assert optimiser is not None
    decays = {
        parameter.dim(): group["weight_decay"]
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert decays == {1: 0.0, 2: 0.1}


def test_blocks_are_the_layers() -> None:
    workload = built_in("gpt-nano")
    assert workload.blocks(workload.model()) == ["blocks.0", "blocks.1", "blocks.2"]
