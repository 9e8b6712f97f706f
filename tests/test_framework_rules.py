"""Which options of a framework go together: what a session refuses before it starts a rank."""

from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.models import OWN_MODELS, SHARED_BY_RANKS
from pytest_dnnbench.controller.case_run import check_rules
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.step_form import StepForm

THREE = StepForm(accumulate=3)


def check(framework: str, options: dict[str, Any], gpus: int = 2, **more: Any) -> None:
    """Asks the rules of a framework about one case."""
    case = Case(framework, "mlp", gpus, "train", options=options, **more)
    check_rules(Catalog().framework(framework), case)


@pytest.mark.parametrize(
    ("framework", "options", "more", "message"),
    [
        ("ddp", {"hook": "bf16"}, {}, "hook bf16 needs CUDA: .* cpu ranks; use fp16"),
        (
            "ddp",
            {"static_graph": True},
            {"form": THREE},
            "--dnn-ddp-static-graph with --dnn-accumulate 3: .*; leave one",
        ),
        ("ddp", {"powersgd_rank": 2}, {}, "the hook is none: give --dnn-ddp-hook powersgd too"),
        ("ddp", {"powersgd_rank": 2, "hook": "fp16"}, {}, "and the hook is fp16: give"),
        ("ddp", {"sync_batchnorm": True}, {}, "sync-batchnorm needs GPUs: .* of cpu ranks"),
        ("horovod", {"op": "adasum"}, {}, "on 2 ranks: Horovod has Adasum for MPI ranks only"),
        (
            "horovod",
            {"backward_passes_per_step": 2},
            {"form": THREE},
            "--dnn-horovod-passes 2 and --dnn-accumulate 3 both say",
        ),
        (
            "fsdp",
            {"param_dtype": "bf16"},
            {"precision": "bf16"},
            "--dnn-fsdp-param-dtype bf16 and --dnn-precision bf16 both choose",
        ),
        ("fsdp", {"reduce": "last"}, {}, "--dnn-fsdp-reduce last .* give --dnn-accumulate N too"),
        (
            "gpipe",
            {"replicas": "fsdp"},
            {"form": StepForm("channels_last")},
            "--dnn-schedule-replicas fsdp with --dnn-memory-format channels_last: .* contiguous",
        ),
    ],
)
def test_what_cannot_be_together_is_refused(
    framework: str, options: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check(framework, options, **more)


def test_what_goes_together_is_taken() -> None:
    check("ddp", {"hook": "bf16", "sync_batchnorm": True}, device="cuda")
    check("ddp", {"hook": "powersgd", "powersgd_rank": 2})
    check("ddp", {}, form=THREE)
    check("horovod", {"op": "adasum"}, gpus=1)
    check("horovod", {"backward_passes_per_step": 2})
    check("fsdp", {"param_dtype": "bf16"})
    check("fsdp", {"reduce": "last"}, form=THREE)
    check("gpipe", {"replicas": "copies"}, form=StepForm("channels_last"))
    check("single", {})


@pytest.mark.parametrize(
    ("model", "gpus", "options", "message"),
    [
        ("gpt-nano", 2, {}, "gpt-nano among 2 ranks, .* its 3 heads evenly: .* a divisor of 3"),
        ("gpt-nano", 4, {"ranks": 2}, "among 2 ranks"),
        ("llama-tiny", 4, {}, "among 4 ranks, .* its 2 heads of keys"),
        ("mlp", 3, {}, "its 256 features"),
        ("pytest_dnnbench.rank.workloads.gpt:nano", 2, {}, "its 3 heads"),
    ],
)
def test_a_model_that_ranks_cannot_share_is_refused_before_they_start(
    model: str, gpus: int, options: dict[str, Any], message: str
) -> None:
    case = Case("tp", model, gpus, "train", options=options)
    with pytest.raises(UsageError, match=message):
        check_rules(Catalog().framework("tp"), case)


def test_what_ranks_can_share_and_what_is_not_known_goes_on() -> None:
    for model, gpus, options in (
        ("gpt-nano", 3, {}),
        ("gpt-nano", 6, {"ranks": 3}),
        ("gpt-nano", 1, {}),
        ("vit_b_16", 5, {}),
        ("their.package:model", 7, {}),
    ):
        case = Case("tp", model, gpus, "train", options=options)  # type: ignore[arg-type] # of one
        check_rules(Catalog().framework("tp"), case)


def test_the_catalog_knows_what_ranks_share_of_each_model_of_ours() -> None:
    torch = pytest.importorskip("torch")
    from pytest_dnnbench.rank.workloads.image_models import factory_of

    assert {*SHARED_BY_RANKS} == {*OWN_MODELS.values()}
    for path, (count, _) in SHARED_BY_RANKS.items():
        workload: Any = factory_of(path)()
        shared = workload.width if hasattr(workload, "width") else workload.heads
        assert shared == count, path
        with pytest.raises(UsageError, match=f"ha(s|ve) {count} "):
            workload.split(torch.nn.Identity(), count + 1)
