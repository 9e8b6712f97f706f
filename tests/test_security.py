"""Nothing of ours is open to others: sockets are on loopback only, files are private, pickles come
from our own forks only."""

import ast
import json
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench.__main__ import main
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from tests.faults.matrix import FRAMEWORKS, Field, Watched
from tests.report.records import session
from tests.sockets import listening

PACKAGE = Path(pytest_dnnbench.__file__).parent
LOOPBACK = ("0100007F:", "0" * 24 + "01000000:", "0" * 16 + "FFFF00000100007F:")
MAY_UNPICKLE = {
    "controller/job.py": "writes pickles for ranks of this machine and reads none",
    "controller/launch_part.py": "writes pickles for ranks that it forks here and reads none",
    "controller/unpickling.py": "what a user's function returned: values only, within a time",
    "rank/entry.py": "what the controller leaves in memory that the rank has inherited",
}
MAY_EXECUTE = {
    "rank/pipeline/stage_module.py": "the code of a stage, made from a graph traced in this process"
}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def unpicklers(path: Path) -> list[str]:
    """The ways in which a module could read a pickle or run text."""
    ways = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            ways += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE:
            ways.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            allow = [keyword.value for keyword in node.keywords if keyword.arg == "allow_pickle"]
            if name in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load"):
                ways.append(name)
            elif any(
                not (isinstance(value, ast.Constant) and value.value is False) for value in allow
            ):
                ways.append(f"{name} with allow_pickle")
    return ways


def test_pickles_are_used_where_they_may_be_and_nowhere_else() -> None:
    ways = {str(path.relative_to(PACKAGE)): unpicklers(path) for path in PACKAGE.rglob("*.py")}
    allowed = {name: ["pickle"] for name in MAY_UNPICKLE} | {name: ["exec"] for name in MAY_EXECUTE}
    assert {name: used for name, used in ways.items() if used} == allowed


def test_the_search_for_pickles_finds_them(tmp_path: Path) -> None:
    code = (
        "import pickle.x\n"
        "from dill import loads\n"
        "torch.load('f')\n"
        "np.load('f', allow_pickle=True)\n"
        "eval('1')\n"
    )
    (tmp_path / "m.py").write_text(code)
    assert unpicklers(tmp_path / "m.py") == [
        "pickle.x",
        "dill",
        "torch.load",
        "np.load with allow_pickle",
        "eval",
    ]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    preload = (*PRELOAD, "horovod.torch", "pytest_dnnbench.rank.frameworks.pipedream")
    with Watched(preload) as server:
        server.wait_ready()
        yield Field(server, tmp_path_factory.mktemp("cache"))


MOST_LAUNCHES = 10
"""Where the observer has no core during one, it sees nothing of it."""


class Observer(threading.Thread):
    """Reads the kernel's socket table and our folder of temporary files while a case runs."""

    def __init__(self, server: Watched) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.addresses: set[str] = set()
        self.modes: set[tuple[str, int]] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            for pid in (os.getpid(), *self.server.ranks):
                try:
                    self.addresses |= set(listening(pid))
                except OSError:
                    continue  # this rank has ended
            self._look_at_files()

    def _look_at_files(self) -> None:
        for folder in Path(tempfile.gettempdir()).glob(f"dnnbench-{os.getpid()}-*"):
            try:
                self.modes.add(("folder", stat.S_IMODE(folder.stat().st_mode)))
            except OSError:
                continue  # the launch is over

    def __enter__(self) -> "Observer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_running_case_listens_on_loopback_only_and_its_files_are_private(
    field: Field, framework: str
) -> None:
    run = field.run(framework)
    run.request = replace(run.request, steps=300)  # long enough to be looked at
    field.server.ranks.clear()
    with Observer(field.server) as observer:
        for _ in range(MOST_LAUNCHES):
            run.launch()
            if observer.modes and (observer.addresses or framework == "single"):
                break
    assert all(address.startswith(LOOPBACK) for address in observer.addresses), observer.addresses
    assert bool(observer.addresses) == (framework != "single"), "or this test observes nothing"
    assert observer.modes == {("folder", 0o700)}


def test_the_fork_server_listens_on_nothing(server: ForkServer) -> None:
    assert server.pid is not None
    assert listening(server.pid) == []


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside-of-the-report", "nul\0byte"])
def test_names_in_saved_results_become_no_paths(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    saved = session(models=(name,), frameworks=("single", "ddp"), counts=(1,), launches=2, steps=2)
    (folder / "saved.json").write_text(json.dumps(saved))
    before = set(tmp_path.rglob("*"))
    assert main(["report", str(folder / "saved.json"), "-o", str(folder / "out")]) == 0
    new = set(tmp_path.rglob("*")) - before
    assert folder / "out" in new
    assert all(folder / "out" in (path, *path.parents) for path in new)
    assert not Path("/tmp/outside-of-the-report").exists()
