"""Forms of a step that a GPU alone can have, and compiled ones: proven; captured steps are not
slower than plain ones."""

import pytest

from pytest_dnnbench.step_form import StepForm
from tests.gpu.lanes import Lane, LaneBench, LaneOutcome, RunLane

LAST, GRAPH = (StepForm("channels_last", cuda_graph=captured) for captured in (False, True))
FUSED = StepForm(fused=True, cuda_graph=True)


def short(model: str, form: StepForm, phase: str = "train") -> Lane:
    """A lane of kernels that are shorter than the host needs to queue them."""
    return Lane(
        *("single", model, 1),
        form=form,
        phase=phase,
        image_size=28,
        batch_size=32,
        precision="bf16",
        steps="1s",
        warmup="auto",
    )


def compiled(framework: str, ranks: int, mode: str) -> Lane:
    """A lane whose step torch.compile has compiled."""
    return Lane(framework, "mlp", ranks, form=StepForm(compile=mode), timeout_s=120.0)


LANES = {
    "compiled": compiled("single", 1, "default"),
    "plain": short("resnet18", LAST),
    "graph": short("resnet18", GRAPH),
    "graph-validation": short("resnet18", GRAPH, "validate"),
    "graph-adam": short("gpt-nano", FUSED),
    "compiled-graphs": compiled("single", 1, "reduce-overhead"),
    "compiled-ddp": compiled("ddp", 2, "default"),
}


def marks(name: str) -> list[pytest.MarkDecorator]:
    """What is known of a lane before it runs."""
    if "compiled" in name:
        return [pytest.mark.costs(25)]
    return [pytest.mark.only_on_a_gpu] if "graph" in name else []


@pytest.fixture(scope="module")
def outcomes() -> dict[str, LaneOutcome]:
    """Those of the lanes so far, by name."""
    return {}


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in LANES])
def test_a_form_is_proven_and_timed(
    bench: LaneBench, outcomes: dict[str, LaneOutcome], name: str, run_lane: RunLane
) -> None:
    outcome = outcomes[name] = run_lane(LANES[name])
    outcome.check_proof()
    about = outcome.record["correctness"]["about"]
    assert ("captured" in about) == LANES[name].form.cuda_graph
    assert ("compiled" in about) == bool(LANES[name].form.compile)


@pytest.mark.only_on_a_gpu
@pytest.mark.costs(0)
def test_a_captured_step_is_not_slower_and_needs_as_much_memory(
    outcomes: dict[str, LaneOutcome],
) -> None:
    plain, graph = outcomes["plain"], outcomes["graph"]
    assert graph.per_launch("throughput") >= plain.per_launch("throughput")
    peaks = [each.per_launch("allocated_peak_bytes")[0] for each in (plain, graph)]
    assert 0.8 * peaks[0] < peaks[1] < 2 * peaks[0]


@pytest.mark.only_on_a_gpu
@pytest.mark.costs(0)
def test_the_first_losses_are_those_of_the_plain_step(outcomes: dict[str, LaneOutcome]) -> None:
    """The same weights and minibatches; later steps differ by rounding."""
    plain, graph = (outcomes[name].record["launches"][0]["loss"][:6] for name in ("plain", "graph"))
    assert graph == pytest.approx(plain, rel=0.05)
