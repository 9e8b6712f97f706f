"""A case whose clock is broken fails by itself: the session and its other cases go on."""

import json
from pathlib import Path

import pytest

CASES = """
import pytest
from tests.rank import broken_clocks
from tests.tiny_models import tiny

@pytest.mark.parametrize("factory", [tiny, broken_clocks.nan_everywhere, broken_clocks.backwards])
def test_train(factory, process_group, dnnbench):
    dnnbench.measure("single", factory, process_group(1), phase="train")

def test_after_it(process_group, dnnbench):
    dnnbench.measure("single", tiny, process_group(1), phase="validate")
"""


def test_one_broken_clock_costs_one_case(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One NaN lost the whole session: AttributeError in sessionfinish, no JSON of any case."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makepyfile(test_cases=CASES)
    result = pytester.runpytest_subprocess(
        *("--dnn-device=cpu", "--dnn-launches=2", "--dnn-batch-size=4", "--dnn-steps=4"),
        *("--dnn-warmup=1", "--benchmark-json=out.json"),
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*the clock of rank 0 read nan s*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    saved = json.loads((pytester.path / "out.json").read_text())
    assert [entry["name"] for entry in saved["benchmarks"]] == ["test_train[tiny]", "test_after_it"]
    for entry in saved["benchmarks"]:
        launches = entry["extra_info"]["dnnbench"]["launches"]
        assert [len(launch["step_time_s"]) for launch in launches] == [4, 4]
        assert [launch["warmup_steps"] for launch in launches] == [1, 1]
