"""Ranks are fresh, find each other, bring back results, and fail one case by name and no other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.ranks import GRACE_S, Ranks
from pytest_dnnbench.errors import LaunchError, RankCrashed, RankHung, RankRaised, UsageError
from pytest_dnnbench.proc import has_ended
from tests.patience import HANG_S, failure_at_hang
from tests.rank import programs


def await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + HANG_S
    while left := [pid for pid in pids if not has_ended(pid)]:
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.05)


def test_each_rank_returns_its_result(two_ranks: Ranks) -> None:
    assert two_ranks.run(programs.sum_of_ranks) == [1, 1]


def test_the_fixture_gives_a_process_group(process_group: Callable[[int], Ranks]) -> None:
    assert process_group(3).run(programs.sum_of_ranks) == [3, 3, 3]


def test_every_launch_has_fresh_processes_and_its_share_of_threads(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(programs.facts), two_ranks.run(programs.facts)
    assert len({fact["pid"] for fact in first + second}) == 4
    assert {fact["threads"] for fact in first} == {1}
    await_end([fact["pid"] for fact in first + second])


def test_large_arguments_and_results_pass_whole(two_ranks: Ranks) -> None:
    value = {"bytes": os.urandom(3_000_000), "nested": [1, (2.5, None)]}
    assert two_ranks.run(programs.echo, value) == [value, value]


def test_a_value_that_is_nested_too_deep_is_refused_in_one_line(two_ranks: Ranks) -> None:
    """It ended in a RecursionError and the traceback of it."""
    (deep, _) = two_ranks.run(programs.nested, 200)
    assert programs.levels_of(deep) == 200
    assert two_ranks.run(programs.levels_of, deep) == [200, 200]
    with pytest.raises(UsageError, match=r"^rank \d: the result holds too many objects.*path$"):
        two_ranks.run(programs.nested, 100_000)
    with pytest.raises(UsageError, match=r"^an argument for the ranks holds too many objects"):
        two_ranks.run(programs.levels_of, programs.nested(100_000))


def test_ranks_listen_on_loopback_only(two_ranks: Ranks) -> None:
    addresses = [address for rank in two_ranks.run(programs.listening_sockets) for address in rank]
    assert addresses, "gloo listens somewhere, or this test sees nothing"
    assert all(address.startswith(("0100007F:", "0" * 24 + "01000000:")) for address in addresses)


def test_another_interface_in_the_environment_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    with ForkServer(["torch"]) as server:
        ranks = Ranks(server, ["cpu"] * 2, threads=1, timeout_s=HANG_S)
        assert ranks.run(programs.sum_of_ranks) == [1, 1]


def test_memory_that_a_rank_frees_is_not_fetched_again_page_by_page(two_ranks: Ranks) -> None:
    assert (
        max(two_ranks.run(programs.page_faults_of_large_buffers)) < 1000
    )  # 80,000 pages are written


def test_ranks_ask_for_huge_pages(two_ranks: Ranks) -> None:
    assert two_ranks.run(programs.variable, "GLIBC_TUNABLES") == ["glibc.malloc.hugetlb=1"] * 2


def test_the_users_own_heap_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    with ForkServer(["torch"]) as server:
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        assert ranks.run(programs.variable, "GLIBC_TUNABLES") == ["glibc.malloc.hugetlb=0"]
        assert ranks.run(programs.page_faults_of_large_buffers)[0] > 10_000


def test_ranks_import_neither_pytest_nor_the_controller(two_ranks: Ranks) -> None:
    loaded = two_ranks.run(programs.modules)[0]
    assert {"torch", "pytest_dnnbench.rank.frameworks.ddp"} <= set(
        loaded
    )  # imported before the fork
    assert not {"pytest", "_pytest"} & set(loaded)
    assert not [name for name in loaded if name.startswith("pytest_dnnbench.controller")]


def test_a_rank_that_raises_is_named_with_its_traceback(two_ranks: Ranks) -> None:
    with pytest.raises(RankRaised, match="rank 1 of 2 raised ValueError: planted") as caught:
        two_ranks.run(programs.raise_on, 1)
    assert "in raise_on" in str(caught.value)
    assert caught.value.rank == 1
    # The cause is shown once; what its peer raises because of it is a line.
    assert two_ranks.outputs[1].strip() == "about to fail"
    assert "Traceback" not in two_ranks.outputs[0]
    assert "about to fail" in caught.value.output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_rank_that_dies_is_named_with_its_signal_and_last_output(
    two_ranks: Ranks, number: int
) -> None:
    with pytest.raises(
        RankCrashed, match=f"rank 1 of 2 died of {signal.Signals(number).name}"
    ) as caught:
        two_ranks.run(programs.die_on, 1, number)
    assert "last words" in str(caught.value)


def test_a_rank_that_died_is_to_blame_though_its_fork_server_says_so_after_its_peer_raised(
    two_ranks: Ranks,
) -> None:
    """A fork server without a core for a second made its peer the culprit."""
    with pytest.raises(RankCrashed, match="rank 1 of 2 died of SIGKILL"):
        two_ranks.run(programs.die_behind_a_late_server, 3 * GRACE_S)


def test_a_rank_that_leaves_early_has_crashed(two_ranks: Ranks) -> None:
    with pytest.raises(RankCrashed, match="rank 0 of 2 ended with status 0 before it reported"):
        two_ranks.run(programs.leave_on, 0)


def test_a_rank_that_hangs_shows_the_stacks_of_its_threads(two_ranks: Ranks) -> None:
    hung = failure_at_hang(
        two_ranks,
        lambda: two_ranks.run(programs.hang_on, 1),
        lambda hung: hung.rank_phase == "program",
    )
    assert f"did not finish within {two_ranks.timeout_s:g} s" in str(hung)
    assert "in sleep_forever" in str(hung)


def test_a_stopped_rank_is_the_culprit_of_its_hang(two_ranks: Ranks) -> None:
    hung = failure_at_hang(
        two_ranks,
        lambda: two_ranks.run(programs.stop_on, 1),
        lambda hung: "stopped by a signal" in str(hung),
    )
    assert isinstance(hung, RankHung)
    assert hung.rank == 1


def test_the_server_serves_on_after_failures(two_ranks: Ranks) -> None:
    with pytest.raises(RankCrashed):
        two_ranks.run(programs.die_on, 0, signal.SIGKILL)
    assert two_ranks.run(programs.sum_of_ranks) == [1, 1]


def test_a_killed_server_is_replaced_at_the_next_launch() -> None:
    with ForkServer() as server:
        ranks = Ranks(server, ["cpu"], threads=1, timeout_s=HANG_S)
        (fact,) = ranks.run(programs.facts)
        process = server._process  # the process to kill is nobody else's business
        assert process is not None
        process.kill()
        process.wait()
        assert ranks.run(programs.facts)[0]["pid"] != fact["pid"]


def test_ranks_die_with_a_killed_pytest(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = {
        **os.environ,
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }  # what is killed cannot clear up
    script = (
        "from pytest_dnnbench.controller.forkserver import ForkServer\n"
        "from pytest_dnnbench.controller.ranks import Ranks\n"
        "from tests.rank import programs\n"
        "ranks = Ranks(ForkServer(), ['cpu'] * 2, threads=1, timeout_s=600)\n"
        f"ranks.run(programs.say_pid_and_sleep, {str(tmp_path)!r})\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, env=elsewhere) as controller:
        deadline = time.monotonic() + HANG_S
        while len(list(tmp_path.iterdir())) < 2 or not all(
            path.read_text() for path in tmp_path.iterdir()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        controller.kill()
    await_end([int(path.read_text()) for path in tmp_path.iterdir()])


def test_a_function_that_ranks_cannot_import_is_refused(two_ranks: Ranks) -> None:
    with pytest.raises(UsageError, match="define it with `def` at the top level"):
        two_ranks.run(lambda: None)


def test_a_torch_that_does_not_import_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        ForkServer(["torch"]) as server,
        pytest.raises(LaunchError, match="torch does not import: ImportError: planted"),
    ):
        server.wait_ready()


def test_another_preload_that_does_not_import_takes_nothing_down() -> None:
    with ForkServer(["torch", "no_such_module"]) as server:
        server.wait_ready()
        assert "ModuleNotFoundError" in server.preload_errors["no_such_module"]


def test_a_preload_that_starts_threads_is_refused() -> None:
    with (
        ForkServer(["tests.rank.starts_a_thread"]) as server,
        pytest.raises(LaunchError, match="2 threads after its imports"),
    ):
        server.wait_ready()
