"""Forms of a step: how they are named, which cannot be, and who takes which."""

import re

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.step_form import FORM_FIELDS, PLAIN, REASONS, StepForm


@pytest.mark.parametrize(
    ("form", "label"),
    [
        (PLAIN, ""),
        (StepForm("channels_last", "default"), "channels_last-compile"),
        (StepForm(fused=True, checkpointing=True, accumulate=4), "fused-checkpointing-accumulate4"),
        (StepForm(compile="reduce-overhead"), "compile_reduce_overhead"),
    ],
)
def test_the_id_names_what_is_not_plain(form: StepForm, label: str) -> None:
    assert form.label == label
    suffix = f"-{label}" if label else ""
    assert Case("ddp", "resnet50", 4, "train", form=form).id == f"ddp-resnet50-4gpu{suffix}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory_format": "nhwc"}, "memory_format 'nhwc' is unknown: choose from contiguous, cha"),
        ({"compile": "fast"}, "compile 'fast' is no mode of torch.compile: choose from default"),
        ({"accumulate": 0}, "accumulate is 0: it must be at least 1"),
        ({"accumulate": 1.5}, "accumulate is 1.5: give a value of type int"),
        ({"fused": "no"}, "fused is 'no': give a value of type bool"),
        (
            {"compile": "default", "cuda_graph": True},
            "--dnn-compile with --dnn-cuda-graph: compiled code may be compiled again",
        ),
        (
            {"checkpointing": True, "cuda_graph": True},
            "--dnn-checkpointing with --dnn-cuda-graph: a block that runs again has the random",
        ),
        (
            {"compile": "default", "checkpointing": True},
            "--dnn-compile with --dnn-checkpointing: a block that runs again must not move its buf",
        ),
    ],
)
def test_a_form_that_no_step_has_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        StepForm(**values)  # type: ignore[arg-type] # what is wrong with them


@pytest.mark.parametrize("spec", FRAMEWORKS, ids=lambda spec: spec.name)
def test_every_framework_takes_a_form_or_gives_the_reason(spec: object) -> None:
    row = Catalog().framework(spec.name)  # type: ignore[attr-defined]
    assert set(row.forms) <= set(FORM_FIELDS)
    assert set(row.forms) | set(row.form_reasons) | set(REASONS) == set(FORM_FIELDS)
    assert not set(row.forms) & set(row.form_reasons)


def test_what_is_not_taken_is_refused_with_the_reason_and_the_fix() -> None:
    tried = StepForm(cudnn_benchmark=True)
    with pytest.raises(UsageError, match="needs a CUDA device, and ranks run on 'cpu'"):
        Catalog().framework("single").check_form(tried, "cpu")
    Catalog().framework("single").check_form(tried, "cuda")
    captured = StepForm(cuda_graph=True)
    Catalog().framework("single").check_form(captured, "cuda")
    with pytest.raises(UsageError, match="--dnn-cuda-graph needs a CUDA device"):
        Catalog().framework("single").check_form(captured, "cpu")
    with pytest.raises(UsageError, match="ddp takes no --dnn-cuda-graph: only single has a step"):
        Catalog().framework("ddp").check_form(captured, "cuda")
    with pytest.raises(UsageError, match="pipedream takes no --dnn-compile: a stage runs a trac"):
        Catalog().framework("pipedream").check_form(StepForm(compile="default"), "cpu")
