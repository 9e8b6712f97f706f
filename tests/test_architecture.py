"""The seams of the package hold: who may import whom, and that the pytest side never imports
torch."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench.catalog import FRAMEWORKS

PACKAGE = Path(pytest_dnnbench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
SHARED = {
    "rank_status",
    "case",
    "catalog",
    "metrics",
    "messages",
    "errors",
    "mnist_files",
    "files",
    "proc",
}
FORBIDDEN = {
    "controller": {"rank", "report", "plugin", "bench", "workshop"},
    "rank": {"controller", "results", "report", "plugin", "options", "bench", "workshop", "rounds"},
    "results": {"controller", "rank", "report", "plugin"},
    "report": {"controller", "rank", "plugin"},
    "planner": {"controller", "rank", "results", "report", "plugin", "case", "catalog", "messages"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts_of_ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("pytest_dnnbench.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert not parts_of_ours(path) & FORBIDDEN.get(part, set())
    if part in SHARED:
        assert parts_of_ours(path) <= SHARED
    if part != "rank":
        heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "torchvision", "horovod"}
        assert not heavy - ({"horovod"} if path.name.startswith("horovod") else set())


def test_every_row_of_the_catalog_leads_somewhere() -> None:
    for row in FRAMEWORKS:
        if row.missing():
            continue
        for target in filter(None, (row.worker, row.rendezvous)):
            module, _, name = target.partition(":")
            assert callable(getattr(importlib.import_module(module), name))


def test_the_plugin_imports_neither_torch_nor_plotting() -> None:
    script = (
        "import sys, pytest_dnnbench.plugin, pytest_dnnbench.session.resources, pytest_dnnbench.session.bench\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'pynvml', 'horovod') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
