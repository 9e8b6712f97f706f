"""What the path of a case leaves out: the original PipeDream's cost model and text format."""

import subprocess
import sys

import pytest

PATH_OF_A_CASE = (
    "pytest_dnnbench.planner.options",
    "pytest_dnnbench.planner.predict",
    "pytest_dnnbench.rank.pipeline.planning",
    "pytest_dnnbench.rank.frameworks.pipedream",
)


@pytest.mark.parametrize("module", PATH_OF_A_CASE)
def test_planning_a_case_imports_nothing_of_the_original(module: str) -> None:
    script = f"import sys, {module}; print([n for n in sys.modules if 'planner.pipedream' in n])"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
