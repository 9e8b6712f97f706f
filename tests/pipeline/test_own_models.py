"""Pipeline proofs of models as users have them: the reference is the model itself, so what a trace
loses is found."""

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.errors import WrongResult
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
    ],
)
def test_a_right_pipeline_passes(
    server: ForkServer, model: str, settings: dict[str, str | int]
) -> None:
    evidence = prove(server, 2, stages="2", model=f"{AWKWARD}:{model}", **settings)
    for kind, deviation in evidence.largest_deviation.items():
        assert deviation <= evidence.tolerance[kind]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("NoGrad", "gradients in float32 of stage 0 in the timed run: stem"),
        ("Sleeping", r"the model's forward takes 30\d\.\d ms longer than its traced stages"),
    ],
)
def test_what_the_trace_loses_is_found(server: ForkServer, model: str, message: str) -> None:
    with pytest.raises(WrongResult, match=message):
        prove(server, 2, stages="2", model=f"{AWKWARD}:{model}")


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
