"""A proof holds a bounded number of copies of the weights, and says so where it runs out."""

import json
import subprocess
import sys

import pytest

from pytest_dnnbench.rank.proof_conditions import COPIES, COPIES_OF_ADAM

PROGRAM = """
import json, resource, sys, torch
from pytest_dnnbench.case import Case
from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.rank.frameworks.single import SingleWorker
import torch._dynamo
model = sys.argv[2]
case = Case("single", model, 1, "train", batch_size=4)
worker = SingleWorker(Place(0, 1, "cpu", 1, "", 60.0), RunRequest(case, "", model, 1, 0))
copy = 8 * sum(each.numel() for each in worker.fresh_module(0).parameters())
room = float(sys.argv[1])
if room:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(used + room * copy),) * 2)
open("/proc/self/clear_refs", "w").write("5")
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if key in line)
before = status("VmRSS")
try:
    worker.prove()
    print(json.dumps({"copies": (status("VmHWM") - before) / copy}))
except MemoryError as error:
    print(json.dumps({"error": str(error)}))
"""


WIDE = "tests.awkward_models:Wide"


def proof(room: float = 0.0, model: str = WIDE) -> dict[str, object]:
    """The proof of eight million weights in a process of its own, with room for that many more
    copies in float64."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(room), model],
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    ("model", "copies"), [(WIDE, COPIES), ("tests.own_workloads:WideAdam", COPIES_OF_ADAM)]
)
def test_a_proof_holds_a_bounded_number_of_copies(model: str, copies: int) -> None:
    assert float(str(proof(model=model)["copies"])) < copies + 0.5


def test_a_proof_that_runs_out_of_memory_says_what_it_needs() -> None:
    message = str(proof(room=3.0)["error"])
    assert "the proof of tests.awkward_models:Wide ran out of memory" in message
    assert f"up to {COPIES} float64 copies of the weights of 7,950,010 parameters" in message
    assert "GiB on rank 0" in message
