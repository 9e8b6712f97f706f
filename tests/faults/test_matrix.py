"""Each fault, in each rank phase, of each framework: the case fails in time with the right error,
the right rank is blamed, and nothing is left behind.

Each run of the tests checks a part of the matrix, `make faults` all of it. The outcomes are in
docs/appendix/fault-matrix.md.
"""

import os
from collections.abc import Iterator

import pytest

from pytest_dnnbench.controller.forkserver import PRELOAD
from tests.faults import matrix, outcomes
from tests.faults.matrix import Field, Watched

PART = (
    ("exception", "import", "single"),
    ("exception", "teardown", "horovod"),
    ("SIGKILL", "timed steps", "ddp"),
    ("SIGSTOP", "report", "pipedream"),
    ("skipped collective", "build", "ddp"),
    ("SIGSTOP", "timed steps", "horovod"),
    ("skipped collective", "warm-up", "horovod"),
    ("out of memory", "group", "pipedream"),
    ("out of memory", "timed steps", "single"),
    ("NaN loss", "warm-up", "ddp"),
    ("NaN loss", "proof", "pipedream"),
    ("SIGSEGV", "build", "pipedream"),
    ("abort", "proof", "horovod"),
    ("flood of output", "timed steps", "single"),
    ("exit 0", "teardown", "ddp"),
    ("another model", "proof", "horovod"),
    ("another model", "timed steps", "ddp"),
    ("another model", "build", "pipedream"),
)
"""Every fault, every rank phase and every framework at least once."""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    preload = (*PRELOAD, "horovod.torch", "pytest_dnnbench.rank.frameworks.pipedream")
    with Watched(preload) as server:
        server.wait_ready()
        yield Field(server, tmp_path_factory.mktemp("cache"))


def check(field: Field, fault: str, rank_phase: str, framework: str) -> None:
    field.run(framework)  # plans, where there is something to plan
    before = len(os.listdir("/proc/self/fd"))
    planted = field.plant(fault, rank_phase, framework)
    mistakes = matrix.wrong(fault, rank_phase, framework, planted)
    outcomes.note(fault, rank_phase, framework, planted.error, planted.took_s, mistakes)
    assert not mistakes, f"{mistakes}\n{planted.error}"
    assert not matrix.left_behind(field.server)
    assert len(os.listdir("/proc/self/fd")) == before
    assert field.sound(framework).launches[0].throughput > 0, "the next case runs"


@pytest.mark.parametrize(("fault", "rank_phase", "framework"), PART)
def test_a_fault_fails_its_case_in_time_with_the_right_error_and_leaves_nothing(
    field: Field, fault: str, rank_phase: str, framework: str
) -> None:
    check(field, fault, rank_phase, framework)


@pytest.mark.faults
@pytest.mark.parametrize(("fault", "rank_phase", "framework"), matrix.combinations())
def test_every_fault_in_every_rank_phase_of_every_framework(
    field: Field, fault: str, rank_phase: str, framework: str
) -> None:
    check(field, fault, rank_phase, framework)


def test_the_part_holds_every_fault_rank_phase_and_framework() -> None:
    assert set(PART) <= set(matrix.combinations())
    assert [{row[column] for row in PART} for column in range(3)] == [
        set(matrix.FAULTS),
        set(matrix.RANK_PHASES),
        set(matrix.FRAMEWORKS),
    ]
