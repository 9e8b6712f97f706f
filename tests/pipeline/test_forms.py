"""Pipelines run their stages in the forms that they take, and the proof holds them to it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.pipeline.gradient_mean import GradientMean
from pytest_dnnbench.rank.pipeline.sgd import Sgd
from pytest_dnnbench.rank.pipeline.stash import Stash
from pytest_dnnbench.rank.step_forms import lay_out
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S

MODEL = "tests.pipeline.models:residual"


@pytest.mark.parametrize(
    ("framework", "ranks", "options"),
    [
        ("pipedream", 3, {"stages": "2-1"}),
        ("pipedream-2bw", 2, {"stages": "2"}),
        ("1f1b", 2, {}),
    ],
)
def test_a_pipeline_in_a_form_is_proven(
    server: ForkServer, tmp_path: Path, framework: str, ranks: int, options: dict[str, Any]
) -> None:
    spec, form = Catalog().framework(framework), StepForm("channels_last", fused=True)
    case = Case(framework, MODEL, ranks, "train", batch_size=4, options=options, form=form)
    # Where the profile is kept, which a plan by the planner takes.
    started = Ranks(
        server,
        ["cpu"] * ranks,
        threads=1,
        timeout_s=HANG_S,
        environment={"XDG_CACHE_HOME": str(tmp_path)},
    )
    asked = RunRequest(case, spec.worker, MODEL, steps=3, warmup=2)
    assert spec.planning is not None
    plan = started.launch(spec.planning, asked)[0]
    evidence = agree(case, started.launch(PROVE, replace(asked, plan=plan)))
    assert evidence.about["form"] == "channels_last-fused"
    for kind in ("gradients in float32", "parameters", "buffers"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind]


@pytest.mark.parametrize("fused", [False, True])
def test_a_stash_updates_in_one_kernel_where_it_is_fused(
    monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    kernels: list[str] = []
    whole = torch._fused_sgd_

    def noted(*tensors: Any, **settings: Any) -> None:
        kernels.append("fused")
        whole(*tensors, **settings)

    monkeypatch.setattr(torch, "_fused_sgd_", noted)
    module = nn.Conv2d(2, 3, 3).double()
    lay_out(module, StepForm("channels_last"))
    own = [weight.detach().clone() for weight in module.parameters()]
    stash = Stash(module, Sgd(0.1, 0.9, 0.01, fused))
    other = torch.optim.SGD(own, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        gradients = [torch.randn_like(weight).contiguous() for weight in own]
        for weight, gradient in zip(own, gradients, strict=True):
            weight.grad = gradient.clone()
        other.step()
        stash.update(gradients, oldest=stash.newest + 1)
    for weight, mine in zip(own, stash.newest_parameters, strict=True):
        torch.testing.assert_close(mine.detach(), weight, rtol=1e-14, atol=1e-14)
    assert kernels == ["fused"] * 3 * fused


def test_summed_gradients_lie_in_memory_as_their_weights_do() -> None:
    weights = [torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(5)]
    mean = GradientMean(weights, None, 2)
    first, second = ([torch.randn(4, 3, 2, 2), torch.randn(5)] for _ in range(2))
    mean.add(first)
    mean.add(second)
    for place, gradient in enumerate(mean.take(2)):
        assert gradient is not None
        assert gradient.stride() == weights[place].stride()
        torch.testing.assert_close(gradient, (first[place] + second[place]) / 2)
