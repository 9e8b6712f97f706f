"""What a timed function's case may be, and the factors of bandwidths."""

import pytest

from pytest_dnnbench.collectives import COLLECTIVES, bus_factor
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.function_case import FunctionCase

FACTORS = {
    # Of nccl-tests' doc/PERFORMANCE.md, for 4 ranks.
    "all_reduce": 1.5,
    "all_gather": 0.75,
    "reduce_scatter": 0.75,
    "all_to_all": 0.75,
    "broadcast": 1.0,
    "reduce": 1.0,
    "send_recv": 1.0,
}


def test_factors_are_those_of_nccl_tests() -> None:
    assert {name: bus_factor(name, 4) for name in COLLECTIVES} == FACTORS
    assert bus_factor("all_reduce", 1) == 0.0, "a lone rank exchanges nothing"
    with pytest.raises(UsageError, match="collective 'all' is unknown: choose from all_reduce"):
        bus_factor("all", 2)


def test_a_case_names_itself() -> None:
    case = FunctionCase("my.module:Sum", "torch", 2, {"size": 64, "kind": "x"})
    assert (case.id, case.label) == ("torch-Sum-2gpu", "torch-Sum-2gpu (size=64, kind=x)")
    assert FunctionCase("my.module:Sum", "torch", 2).label == "torch-Sum-2gpu"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"framework": "mpi"}, "framework 'mpi' is unknown: choose from torch, horovod"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"gpus": 0}, "gpus is 0"),
        ({"collective": "sum"}, "collective 'sum' is unknown"),
        ({"arguments": {"sizes": [1, 2]}}, "argument 'sizes' is a list: arguments go on record"),
        ({"arguments": {"rate": float("nan")}}, "argument 'rate' is nan: give a finite number"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], error: str) -> None:
    facts: dict[str, object] = {"function": "m:f", "framework": "torch", "gpus": 2, **values}
    with pytest.raises(UsageError, match=error):
        FunctionCase(**facts)  # type: ignore[arg-type] # what users give all the same
