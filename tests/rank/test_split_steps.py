"""The parts that a step of tensor parallelism is predicted from: what a step sends, counted by
hand, and a shard that waits for nobody.

A block of GPT has ten weights in parts: those of queries, keys, values and the layer up, each with
its bias, and those of the layers out and down."""

from collections import Counter
from dataclasses import replace

import torch
import torch.distributed as dist

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank import group
from pytest_dnnbench.rank.split_steps import (
    SilentTpWorker,
    exchanges_of,
    held_by,
    replaying,
)
from pytest_dnnbench.rank.whole import part
from tests.patience import HANG_S

LAYERS, WIDTH, TOKENS, VOCABULARY = 4, 128, 128, 256
SAMPLES = 2 * 2
"""Those of both ranks together."""

STREAM = SAMPLES * TOKENS * WIDTH * 4
"""Bytes of what runs through the blocks."""

Sent = Counter[tuple[str, int]]


def request_of(**options: Scalar) -> RunRequest:
    row, path = Catalog().framework("tp"), Catalog().model("gpt-tiny")
    return RunRequest(
        Case("tp", "gpt-tiny", 2, "train", batch_size=2, options=options), row.worker, path, 1, 0
    )


def parts(place: Place, request: RunRequest) -> tuple[Sent, Sent, float, int]:
    """What a step sends, and one with the sequence shared out; a shard's share of the weights; how
    many steps rank 0 makes while the other rank makes none."""
    shared_out = replace(request, case=replace(request.case, options={"sequence": True}))
    with group.membership(place):
        plain = exchanges_of(place, request)
        sent = Counter((each.name, each.size) for each in plain)
        replaying(plain)()
        sequence = Counter((each.name, each.size) for each in exchanges_of(place, shared_out))
        return sent, sequence, *steps_alone(place, request)


def steps_alone(place: Place, request: RunRequest) -> tuple[float, int]:
    worker = SilentTpWorker(place, request)
    worker.build()
    before = [part(each.detach()).clone() for each in worker.module.parameters()]
    steps = len(list(worker.run(2))) if place.rank == 0 else 0
    after = [part(each.detach()) for each in worker.module.parameters()]
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert all(moved) if steps else not any(moved)
    dist.barrier()
    return held_by(worker), steps


def test_the_parts_of_a_step_are_those_of_the_split(server: ForkServer) -> None:
    ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
    answers = ranks.launch("tests.rank.test_split_steps:parts", request_of())
    norms = ("all_reduce", 4), LAYERS * 10
    for sent, sequence, held, steps in answers:
        # Forward the sums of out and down; backward those of queries, keys, values and up.
        assert sent == dict([norms, (("all_reduce", STREAM), LAYERS * 6)])
        gathered = ("all_gather_into_tensor", STREAM // 2)
        assert sequence[gathered] == LAYERS * 4 + 2, "before pairs and back; head, begin"
        assert sequence["reduce_scatter_tensor", STREAM] == LAYERS * 4, "after pairs and back"
        assert held == shard_numbers() / (whole_numbers() + LAYERS * split_numbers())
        assert steps in (0, 2)
    assert [steps for *_, steps in answers] == [2, 0]


def split_numbers() -> int:
    """Of a block's weights that are split."""
    return 12 * WIDTH * WIDTH + 7 * WIDTH


def whole_numbers() -> int:
    """Of weights that every rank has: two norms and the biases of out and down in each block, the
    last norm, tokens (the head has the same) and positions."""
    return LAYERS * 6 * WIDTH + 2 * WIDTH + (VOCABULARY + TOKENS) * WIDTH


def shard_numbers() -> float:
    """Of weights on a rank."""
    return whole_numbers() + LAYERS * split_numbers() / 2
