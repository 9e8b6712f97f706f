"""The seams of the package hold: who may import whom, no circle anywhere, and that the pytest side
never imports torch."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS

PACKAGE = Path(pytest_dnnbench.__file__).parent
ROOT = "pytest_dnnbench"

LEAVES = {
    *(
        "argument_list",
        "errors",
        "counted",
        "files",
        "outputs",
        "proc",
        "metrics",
        "case",
        "catalog",
        "messages",
        "frames",
    ),
    *(
        "rank_status",
        "mnist_files",
        "text_file",
        "run_length",
        "harmless",
        "row_fields",
        "collectives",
        "function_case",
        "powercap",
        "step_form",
        "shape",
        "device_peaks",
        "installed",
        "protocol",
        "portable",
        "step_parts",
        "speed_variables",
        "starting",
    ),
}
RESULTS = {f"results.{part}" for part in ("statistics", "records", "baselines", "verdicts")}
# Of each part of the package: what it may import beside itself. "hookspecs" and "plugin" are what
# pytest loads; `__main__` starts commands by name.
MAY_IMPORT = {
    **{leaf: LEAVES | {"planner"} for leaf in LEAVES},
    "planner": {"counted", "errors", "files", "harmless"},
    "rank": LEAVES | {"planner"},
    "results.statistics": LEAVES,
    "results.records": LEAVES | {"planner", "results.statistics"},
    "results.baselines": LEAVES | {"results.statistics", "results.records"},
    "results.verdicts": LEAVES | RESULTS,
    "controller": LEAVES | {"planner", "results.records"},
    "report": LEAVES | RESULTS | {"planner"},
    "machine": LEAVES | RESULTS | {"controller"},
    "bisection": LEAVES | RESULTS | {"controller"},
    "horovod_build": {"errors", "files", "installed", "proc", "starting", "controller"},
    "hookspecs": LEAVES | {"controller"},
    "session": LEAVES | RESULTS | {"controller", "machine", "report"},
    "plugin": LEAVES | {"hookspecs", "session", "controller"},
    "init": {"errors", "files"},
    "batch": {"errors"},
    "__main__": {"errors", "harmless", ""},
    "": LEAVES | {"session", "controller", "rank"},
}


def module_of(path: Path) -> str:
    """`session.state` of session/state.py; a package's name for its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    """The part of the package that a module belongs to."""
    first, _, rest = module.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "results" and rest else first


def imported_names(path: Path) -> set[str]:
    """Every name that a file imports, wherever in the file it does: inside functions and under
    TYPE_CHECKING too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def our_modules(path: Path) -> set[str]:
    """Those of our modules that a file imports."""
    modules = set()
    for name in imported_names(path):
        if name == ROOT or name.startswith(f"{ROOT}."):
            module = name.removeprefix(ROOT).removeprefix(".")
            while module not in MODULES:
                module = module.rpartition(".")[0]
            modules.add(module)
    return modules


EDGES = {module: our_modules(path) - {module} for module, path in MODULES.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by a way around (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in edges.get(module, ()):
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            place = stack.index(module)
            groups.append(stack[place:])
            del stack[place:]

    for module in edges:
        if module not in order:
            visit(module)
    return [sorted(group) for group in groups if len(group) > 1]


def test_no_circle_of_imports_not_even_inside_functions() -> None:
    assert circles(EDGES) == []


def test_the_search_for_circles_sees_them() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(edges) == [["a", "b", "c"]]
    assert "session.state" in EDGES["session.bench"], "or this test sees nothing"


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    part = part_of(module)
    if module == "results":
        return  # a package of packages, which imports nothing
    targets = {part_of(target) for target in EDGES[module]} - {part}
    assert targets <= MAY_IMPORT[part], f"{module} must not import {targets - MAY_IMPORT[part]}"


@pytest.mark.parametrize("module", MODULES)
def test_only_ranks_import_torch_and_only_sessions_import_pytest(module: str) -> None:
    heavy = {name.split(".")[0] for name in imported_names(MODULES[module])}
    if part_of(module) != "rank":
        assert not heavy & {"torch", "torchvision"}
        # Horovod's own rendezvous server runs beside the ranks; it brings no torch.
        assert "horovod" not in heavy or module == "controller.horovod_rendezvous"
    if part_of(module) not in ("session", "plugin", "hookspecs"):
        assert "pytest" not in heavy


def test_proofs_know_no_framework() -> None:
    """What a reference shared with a framework, no proof of that framework would see."""
    proofs = {module for module in MODULES if module.startswith("rank.proof.")}
    assert proofs, "or this test sees nothing"
    for module in proofs:
        assert not {each for each in EDGES[module] if each.startswith("rank.frameworks")}, module


def test_nobody_imports_the_plugin() -> None:
    importers: dict[str, list[str]] = defaultdict(list)
    for module, targets in EDGES.items():
        for target in targets:
            importers[target].append(module)
    assert not importers["plugin"]
    assert importers["hookspecs"] == ["plugin"]


def test_every_row_of_the_catalog_leads_somewhere() -> None:
    for row in FRAMEWORKS:
        if row.missing():
            continue
        for target in filter(None, (row.worker, row.rendezvous)):
            module, _, name = target.partition(":")
            assert callable(getattr(importlib.import_module(module), name))


def test_the_plugin_imports_neither_torch_nor_plotting() -> None:
    script = (
        "import sys, pytest_dnnbench.plugin, pytest_dnnbench.session.resources,"
        " pytest_dnnbench.session.bench, pytest_dnnbench.session.summary\n"
        "heavy = ('torch', 'numpy', 'matplotlib', 'pynvml', 'horovod')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
