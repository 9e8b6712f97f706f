"""What a test sets in the environment reaches its ranks, and what decides speed is recorded as the
rank saw it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import LaunchError
from pytest_dnnbench.messages import RunRequest
from pytest_dnnbench.rank.rank_facts import malloc_settings
from pytest_dnnbench.results.baselines.comparability import differences
from pytest_dnnbench.speed_variables import (
    MOST_VALUE,
    VARIABLE_PREFIXES,
    cannot_be_set,
    speed_variables,
)
from tests.patience import HANG_S
from tests.rank import fault_programs

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("MODEL_WIDTH", "DNNBENCH_TEST_GONE", "GLOO_SOCKET_IFNAME", "PYTEST_CURRENT_TEST")


def test_what_a_fixture_sets_changes_and_removes_reaches_the_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DNNBENCH_TEST_GONE", "there at the start")
    monkeypatch.setenv("MODEL_WIDTH", "8")
    with ForkServer(["torch"]) as server:
        server.wait_ready()
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        pid = server.pid
        monkeypatch.setenv("MODEL_WIDTH", "512")
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
        monkeypatch.delenv("DNNBENCH_TEST_GONE")
        (inside,) = ranks.run(fault_programs.environment, *NAMES)
        assert inside == {
            "MODEL_WIDTH": "512",
            "DNNBENCH_TEST_GONE": None,
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTEST_CURRENT_TEST": inside["PYTEST_CURRENT_TEST"],
        }
        monkeypatch.undo()
        assert ranks.run(fault_programs.environment, "MODEL_WIDTH") == [{"MODEL_WIDTH": None}]
        assert server.pid == pid, "none of these needs another fork server"


def test_a_variable_that_is_read_when_a_library_is_loaded_needs_another_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ForkServer(["torch"]) as server:
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        ((default, first),) = ranks.run(fault_programs.spin_count)
        monkeypatch.setenv("GOMP_SPINCOUNT", "77")
        assert ranks.run(fault_programs.spin_count) == [("77", server.pid)]
        assert server.pid != first
        monkeypatch.undo()
        assert ranks.run(fault_programs.spin_count) == [(default, server.pid)]


def test_an_environment_that_is_too_large_is_told(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
    for number in range(2):
        monkeypatch.setenv(f"DNNBENCH_TEST_{number}", "x" * 100_000)
    with pytest.raises(LaunchError, match=r"environment variables that have changed .* set fewer"):
        ranks.run(fault_programs.environment)
    monkeypatch.undo()
    assert ranks.run(fault_programs.environment) == [{}]


def test_the_variables_that_decide_speed_are_facts() -> None:
    variables = {
        "HOROVOD_AUTOTUNE": "1",
        "HOROVOD_TIMELINE": "/a/timeline.json",
        "HOROVOD_RANK": "3",
        "NCCL_ALGO": "Ring",
        "NVIDIA_TF32_OVERRIDE": "0",
        "OMP_WAIT_POLICY": "",
        "OMP_NUM_THREADS": "2",
        "PATH": "/bin",
        "TORCHINDUCTOR_CACHE_DIR": "/a/cache",
        "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
        "TORCH_NCCL_API_KEY": "a secret",
        "HOROVOD_SECRET": "a secret",
        "MKL_PASSWORD": "a secret",
        "CUDA_AUTH_TOKEN": "a secret",
        "NVIDIA_TF32_OVERRIDE_TOKEN": "a secret",
    }
    assert speed_variables(variables, launch_variables=["HOROVOD_RANK"]) == {
        "variables.HOROVOD_AUTOTUNE": "1",
        "variables.HOROVOD_TIMELINE": "/a/timeline.json",
        "variables.NCCL_ALGO": "Ring",
        "variables.NVIDIA_TF32_OVERRIDE": "0",
        "variables.TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    }


def test_a_long_value_is_bounded_and_still_told_from_another() -> None:
    begin = "a" * 10_000
    (value,) = speed_variables({"NCCL_A": f"{begin}1"}).values()
    (other,) = speed_variables({"NCCL_A": f"{begin}2"}).values()
    assert len(value) == len(other) == MOST_VALUE
    assert value != other


def test_a_value_that_a_terminal_would_obey_is_recorded_as_text() -> None:
    assert speed_variables({"NCCL_A": "\x1b[31mred"}) == {"variables.NCCL_A": "?[31mred"}


def test_a_rank_records_variables_and_torchs_settings_as_it_sees_them(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
    target = "tests.rank.fault_programs:facts_with_settings"
    monkeypatch.setenv("HOROVOD_AUTOTUNE", "1")
    (plain,) = ranks.launch(target, False, returns=dict, rendezvous=horovod_rendezvous)
    (changed,) = ranks.launch(target, True, returns=dict)
    assert {name for name in plain if name.startswith("variables.HOROVOD")} == {
        "variables.HOROVOD_AUTOTUNE"
    }
    assert plain["interop_threads"] >= 1
    names = ("default_dtype", "deterministic_algorithms", "mkldnn", "matmul_precision")
    assert [plain[name] for name in names] == ["float32", False, True, "highest"]
    assert [changed[name] for name in names] == ["float64", True, False, "highest"]
    traced = "traced by tests.rank.fault_programs.each_line"
    assert [plain["interpreter"], changed["interpreter"]] == ["", traced]


def documented(begin: str, end: str) -> str:
    """What the page on baselines says of facts that must match, from one word to another."""
    page = " ".join((ROOT / "docs" / "baselines.md").read_text().split())
    assert begin in page
    return page.partition(begin)[2].partition(end)[0]


def test_each_setting_of_torch_that_the_docs_name_keeps_runs_apart(server: ForkServer) -> None:
    """Each is changed on a rank, and the facts before and after it are not alike."""
    (facts,) = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S).launch(
        "tests.rank.fault_programs:facts_after_each_setting", returns=dict
    )
    own = documented("torch's settings (", ")").split(", ")
    others = documented("`torch_settings` (", ")").replace("`", "").split(", ")
    assert {*own, *others} == {*fault_programs.SETTINGS}
    assert facts[""]["torch_settings"] == ""
    for (_, before), (name, after) in pairwise(facts.items()):
        differ = {each.fact for each in differences(before, after)}
        assert differ, name
        assert (f"{name}=" in after["torch_settings"]) == (name in others), name
    assert len(after["torch_settings"].split()) == len(others), "each has a name of its own"


def test_each_variable_that_the_docs_name_keeps_runs_apart(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = re.findall("`([A-Z][A-Z0-9_]+)`", documented("as `variables.NAME`,", "but those of"))
    assert sorted(named) == sorted(VARIABLE_PREFIXES)
    of_malloc = re.findall("`([A-Z_]+)`", documented("(`malloc`:", ")"))
    ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
    target = "tests.rank.fault_programs:facts_with_settings"
    (plain,) = ranks.launch(target, False, returns=dict)
    names = [f"{name}DNNBENCH_TEST" for name in named]
    for name in names:
        monkeypatch.setenv(name, "1")
    (changed,) = ranks.launch(target, False, returns=dict)
    assert {each.fact for each in differences(plain, changed)} == {f"variables.{n}" for n in names}
    for name in of_malloc:
        variables = {f"{name}X" if name.endswith("_") else name: "1"}
        assert malloc_settings(variables), name


def test_a_models_width_from_a_fixture_is_the_width_that_is_measured(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The report's case: both widths were measured as the same model."""
    (tmp_path / "wide.py").write_text(
        "import os\n"
        "from torch import nn\n"
        "def make(channels=1, classes=10):\n"
        "    width = int(os.environ.get('MODEL_WIDTH', '8'))\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 784, width), nn.ReLU(),"
        " nn.Linear(width, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    request = RunRequest(
        case=Case("single", "wide:make", 1, "train"),
        worker=Catalog().framework("single").worker,
        model="wide:make",
        steps=1,
        warmup=0,
    )
    losses = []
    for width in ("8", "512"):
        monkeypatch.setenv("MODEL_WIDTH", width)
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        (report,) = ranks.launch("pytest_dnnbench.rank.timed_run:measure", request)
        losses.append(report.loss)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", ""),
        ("NCCL_P2P_DIRECT_DISABLE", "1", ""),
        ("TORCHINDUCTOR_PROFILE", "1", ""),
        ("NCCL_CONF_FILE", "fast", "names files"),
        ("NCCL_NET_PLUGIN", "fast", "names files"),
        ("OMP_TOOL_LIBRARIES", "fast", "names files"),
        ("TRITON_PLUGIN_PATHS", "fast", "names files"),
        ("NCCL_ALGO", "folder/tree", "names files"),
        ("NCCL_SOCKET_IFNAME", "eth0", "interfaces of other machines"),
        ("LD_LIBRARY_PATH", "folder", "no variable of those"),
    ],
)
def test_a_record_sets_speeds_and_no_files(name: str, value: str, reason: str) -> None:
    refusal = cannot_be_set(name, value)
    assert reason in refusal
    assert bool(refusal) == bool(reason)
