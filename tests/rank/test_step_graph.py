"""A step that is captured as a graph: proven right, wrong ones caught, what cannot be captured
refused. The graph is one of tests/rank/recorded_graphs.py; tests/gpu has CUDA's."""

import re
from typing import Any

import pytest
import torch

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.rank_launcher import MEASURE, PROVE
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import UsageError, WrongResult
from pytest_dnnbench.messages import RankReport, RunRequest
from pytest_dnnbench.rank.step_graph import EAGER, StepGraph
from pytest_dnnbench.results.records.rank_agreement import agree
from pytest_dnnbench.results.records.schema import CorrectnessEntry
from pytest_dnnbench.step_form import StepForm
from tests.patience import HANG_S
from tests.rank.recorded_graphs import Recording

TINY = "tests.tiny_models:tiny"
OWN = "tests.rank.recorded_graphs"
GRAPH = StepForm(cuda_graph=True)


def request_of(model: str, worker: str, form: StepForm, phase: str = "train") -> RunRequest:
    case = Case("single", model, 1, phase, batch_size=4, form=form)
    return RunRequest(case, f"{OWN}:{worker}", model, 3, 1)


def prove(
    server: ForkServer,
    model: str = TINY,
    worker: str = "Captured",
    form: StepForm = GRAPH,
    phase: str = "train",
) -> CorrectnessEntry:
    asked = request_of(model, worker, form, phase)
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
    return agree(asked.case, ranks.launch(PROVE, asked))


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (TINY, GRAPH),
        (TINY, StepForm("channels_last", accumulate=2, cuda_graph=True)),
        (f"{OWN}:Adam", StepForm(fused=True, cuda_graph=True)),
    ],
)
def test_a_captured_step_is_proven_in_the_timed_types_and_in_float64(
    server: ForkServer, model: str, form: StepForm
) -> None:
    evidence = prove(server, model, form=form)
    assert evidence.about["form"] == form.label
    assert evidence.about["captured"] == "the step in float32, and all but the first in float64"
    assert evidence.about["steps"] == 3
    for kind in ("gradients in float32", "loss in float32", "gradients", "parameters"):
        assert evidence.largest_deviation[kind] <= evidence.tolerance[kind]


def test_a_captured_validation_is_proven(server: ForkServer) -> None:
    evidence = prove(server, phase="validate")
    assert evidence.checked == ["logits in float32", "logits"]
    assert "captured" in evidence.about


@pytest.mark.parametrize(
    ("worker", "model", "failure"),
    [
        ("KeepsInputs", TINY, "gradients of step 2"),
        ("NeverReplays", TINY, "parameters of step 1"),
        ("Captured", f"{OWN}:Halving", "parameters of step 2"),
    ],
)
def test_a_wrong_captured_step_is_caught(
    server: ForkServer, worker: str, model: str, failure: str
) -> None:
    with pytest.raises(WrongResult, match=failure):
        prove(server, model, worker)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (f"{OWN}:looks", "cannot be captured (operation not permitted when stream is capturing)"),
        (f"{OWN}:Adam", "AdamW counts its steps on the host: make it with capturable=True, add"),
        ("tests.own_workloads:Ranking", "LambdaLR changes the learning rate on the host"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_the_reason(
    server: ForkServer, model: str, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        prove(server, model)


def test_a_captured_run_trains_as_the_plain_one(server: ForkServer) -> None:
    """The same losses, bit for bit, whatever was captured when; nothing of it before the window."""
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
    reports: list[RankReport] = []
    for form in (GRAPH, StepForm()):
        warmup = EAGER + 2 if form == StepForm() else 1
        asked = request_of("tests.tiny_models:deep", "Captured", form)
        asked = RunRequest(asked.case, asked.worker, asked.model, 4, warmup)
        reports += ranks.launch(MEASURE, asked, returns=RankReport)
    captured, plain = reports
    assert captured.loss == plain.loss
    assert captured.warmup_steps == EAGER + 2
    assert captured.metrics["allocated_peak_bytes"] == 123.0
    assert "allocated_peak_bytes" not in plain.metrics
    assert captured.own_work_s == ()


def graph(work: Any, eager: int = 1) -> StepGraph:
    return StepGraph(Recording(), work, name="net", eager=eager)


def test_python_runs_in_the_first_steps_only() -> None:
    calls = []

    def work(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(tensor)
        return tensor * 2

    step = graph(work, eager=2)
    outputs = [step.run(torch.full((2,), float(number))) for number in range(6)]
    assert len(calls) == 3
    assert [float(output[0]) for output in outputs] == [0, 2, 4, 6, 8, 10]


def test_a_minibatch_of_another_size_or_type_is_refused() -> None:
    step = graph(lambda batch: batch["left"] + 1)
    for _ in range(2):
        step.run({"left": torch.zeros(4, 3)})
    with pytest.raises(UsageError, match=re.escape("of the shape (2, 3) in torch.float32, and")):
        step.run({"left": torch.zeros(2, 3)})
    with pytest.raises(UsageError, match=re.escape("of the shape (1, 3)")):
        step.run({"left": torch.zeros(1, 3)})  # which copy_ would spread over all samples
    with pytest.raises(UsageError, match=r"captured with .* in torch\.float32: let all"):
        step.run({"left": torch.zeros(4, 3, dtype=torch.float64)})  # which copy_ would round


def test_the_reason_is_the_first_error_and_not_what_follows_from_it() -> None:
    class Broken(Recording):
        def capture(self, work: Any) -> Any:
            try:
                return work()
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    def look(batch: torch.Tensor) -> float:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(UsageError, match=re.escape("captured (operation not permitted when str")):
        StepGraph(Broken(), look, name="net", eager=0).run(torch.zeros(1))


def test_memory_that_runs_out_during_a_capture_is_called_so() -> None:
    class Full(Recording):
        def capture(self, work: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    step = StepGraph(Full(), lambda batch: batch, name="net", eager=0)
    with pytest.raises(torch.OutOfMemoryError):
        step.run(torch.zeros(1))
