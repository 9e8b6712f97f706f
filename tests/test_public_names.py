"""What authors of cases and of plugins import: few names, loaded only when they are used."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench import errors

PACKAGE = Path(pytest_dnnbench.__file__).parent
ROOT = PACKAGE.parent
ERRORS = [
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.DnnbenchError)
]


def test_the_public_names_are_these() -> None:
    """A name that is added or taken away is a decision: users import them."""
    assert pytest_dnnbench.__all__ == [
        "BuildError",
        "Case",
        "Correctness",
        "DataError",
        "DataShare",
        "DnnBench",
        "DnnbenchError",
        "FrameworkOption",
        "FrameworkSpec",
        "LaunchError",
        "Metric",
        "NodeLost",
        "PipelineStages",
        "Place",
        "PlanError",
        "ProfileError",
        "RankCrashed",
        "RankFailure",
        "RankHung",
        "RankOutOfMemory",
        "RankRaised",
        "RankUnreadable",
        "Ranks",
        "RunRequest",
        "Step",
        "StepForm",
        "UsageError",
        "Worker",
        "Workload",
        "WorkloadRefused",
        "WrongResult",
        "__version__",
    ]


@pytest.mark.parametrize("name", pytest_dnnbench.__all__)
def test_a_public_name_is_there_and_is_called_so(name: str) -> None:
    value = getattr(pytest_dnnbench, name)
    assert name == "__version__" or value.__name__ == name


def test_every_error_is_public() -> None:
    assert set(ERRORS) <= set(pytest_dnnbench.__all__)


def test_a_name_that_does_not_exist_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Benchmark'"):
        getattr(pytest_dnnbench, "Benchmark")  # noqa: B009 - mypy would refuse the plain form


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, pytest_dnnbench\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'pytest', 'msgspec', 'horovod'}\n"
        "ours = {name for name in sys.modules if name.startswith('pytest_dnnbench.')}\n"
        "print(sorted((heavy & set(sys.modules)) | ours))"
    )
    assert _output_of(script) == "[]"


def test_what_a_case_author_needs_imports_no_torch() -> None:
    script = (
        "import sys\n"
        "from pytest_dnnbench import DnnBench, FrameworkSpec, Metric, PipelineStages, Ranks\n"
        "print('torch' in sys.modules)"
    )
    assert _output_of(script) == "False"


def test_nothing_inside_imports_the_public_names_from_the_root() -> None:
    """Or the root would be part of a circle."""
    users = {
        f"{path.relative_to(PACKAGE)}: {alias.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "pytest_dnnbench"
        for alias in node.names
        if alias.name in pytest_dnnbench.__all__
    }
    assert users == {"__main__.py: __version__"}


def test_the_version_is_the_same_wherever_it_stands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == pytest_dnnbench.__version__
    assert f"\nversion: {pytest_dnnbench.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def _output_of(script: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return answer.stdout.strip()
