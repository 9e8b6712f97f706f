"""The kernel's count of processes that it killed because memory ran out is read in both versions of
the control groups, and explains a SIGKILL."""

from pathlib import Path

import pytest

from pytest_dnnbench.controller import oom_kills as oom_kills_module
from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.oom_kills import oom_kills
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import RankCrashed, RankOutOfMemory
from tests.patience import HANG_S
from tests.rank import programs


def tree(tmp_path: Path, line: str, file: str, text: str) -> int | None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(line)
    at = tmp_path / "cgroup" / file
    at.parent.mkdir(parents=True)
    at.write_text(text)
    return oom_kills(7, tmp_path / "cgroup", tmp_path / "proc")


def test_version_2_counts_in_memory_events(tmp_path: Path) -> None:
    assert tree(tmp_path, "0::/a/b\n", "a/b/memory.events", "low 0\noom 3\noom_kill 2\n") == 2


def test_version_1_counts_in_its_oom_control(tmp_path: Path) -> None:
    text = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
    assert tree(tmp_path, "4:memory:/job\n0::/\n", "memory/job/memory.oom_control", text) == 5


def test_inside_a_container_the_group_is_the_root_of_the_mounted_tree(tmp_path: Path) -> None:
    assert tree(tmp_path, "4:cpu,memory:/gone\n", "memory/memory.oom_control", "oom_kill 1\n") == 1


def test_without_a_count_nothing_is_claimed(tmp_path: Path) -> None:
    assert tree(tmp_path, "4:cpu:/\n", "cpu/cpu.stat", "") is None
    assert oom_kills(8, tmp_path, tmp_path) is None


@pytest.mark.parametrize(("after", "kind"), [(3, RankCrashed), (4, RankOutOfMemory)])
def test_a_kill_while_the_count_grew_is_lack_of_memory(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch, after: int, kind: type[Exception]
) -> None:
    counts = iter([3, after])
    monkeypatch.setattr(oom_kills_module, "oom_kills", lambda: next(counts))
    with pytest.raises(kind, match="rank 1 of 2 died of SIGKILL"):
        Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S).run(programs.die_on, 1, 9)
