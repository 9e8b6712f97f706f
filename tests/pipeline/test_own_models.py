"""Pipeline proofs of models as users have them: the reference is the model itself, so what a trace
loses is found."""

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.errors import UsageError, WrongResult
from tests.pipeline.test_worker import _profiles_of_its_own as _profiles_of_its_own
from tests.pipeline.test_worker import prove

AWKWARD = "tests.awkward_models"


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("FrozenBackbone", {}),
        ("Unused", {}),
        ("Permuting", {}),
        ("OneBfloat16Layer", {}),
        ("OneBfloat16Layer", {"framework": "pipedream-2bw", "microbatches": 2}),
        ("PlainSpectral", {}),
        ("PlainSpectral", {"framework": "pipedream-flush", "microbatches": 2}),
        ("Deep", {}),
        ("DropPathLayer", {}),
        ("SleepingLeaf", {}),
        ("NoGrad", {}),  # its stages keep the region
    ],
)
def test_a_right_pipeline_passes(
    server: ForkServer, model: str, settings: dict[str, str | int]
) -> None:
    evidence = prove(server, 2, stages="2", model=f"{AWKWARD}:{model}", **settings)
    for kind, deviation in evidence.largest_deviation.items():
        assert deviation <= evidence.tolerance[kind]


def test_host_work_that_a_trace_loses_is_refused(server: ForkServer) -> None:
    """A pipeline of the stages would be recorded as 50 to 130 times faster than the model."""
    message = r"the forward of Sleeping takes 30\d ms, and its operators"
    with pytest.raises(UsageError, match=message):
        prove(server, 2, stages="2", model=f"{AWKWARD}:Sleeping")


def test_a_pipeline_of_which_nothing_can_be_proven_is_refused(server: ForkServer) -> None:
    """Its bounds would let any gradients pass, those of a wrong pipeline too."""
    with pytest.raises(WrongResult, match=r"stage 0: rounding in float64 alone may move each"):
        prove(
            server,
            2,
            stages="2",
            model=f"{AWKWARD}:Chaotic",
            worker="tests.pipeline.faulty_workers:StaleByOne",
        )


@pytest.mark.parametrize("model", ["Base", "Deep", "Permuting"])
@pytest.mark.parametrize(
    ("fault", "gpus", "stages"),
    [("NoAllReduce", 3, "2-1"), ("MisplacedUpdate", 2, "2"), ("StaleByOne", 2, "2")],
)
def test_a_wrong_pipeline_is_caught_in_every_model(
    server: ForkServer, model: str, fault: str, gpus: int, stages: str
) -> None:
    with pytest.raises(WrongResult, match="parameters of stage"):
        prove(
            server,
            gpus,
            stages=stages,
            model=f"{AWKWARD}:{model}",
            worker=f"tests.pipeline.faulty_workers:{fault}",
        )


def test_a_pipeline_that_is_right_in_double_precision_only_is_caught(server: ForkServer) -> None:
    with pytest.raises(WrongResult, match="gradients in float32 of stage") as caught:
        prove(
            server,
            2,
            stages="2",
            model=f"{AWKWARD}:Base",
            worker="tests.pipeline.faulty_workers:RightInDoubleOnly",
        )
    assert "parameters" not in str(caught.value)
